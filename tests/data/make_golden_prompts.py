"""Golden token ids of the prompts, from HF transformers and nothing of this project.

    python tests/data/make_golden_prompts.py

Needs transformers (the "parity" extra) and DeepSeek's tokenizer: $DSMATH_DATA/tokenizer, or
shared/data/tokenizer beside the repository. Writes golden_prompts.json beside this script.
"""

import json
import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

# tokenizer_config.json of deepseek-math-7b-rl, in words: BOS; a user message is 'User: ' + content
# + two newlines; an assistant message is 'Assistant: ' + content + EOS; a system message is its
# content + two newlines; the generation prompt is 'Assistant:'.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
USER_MESSAGE = {
    "sft": "{q}",
    "cot_en": "{q}\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "cot_zh": "{q}\n请通过逐步推理来解答问题，并把最终答案放置于\\boxed{}中。",
    "tool_en": "{q}\nPlease integrate natural language reasoning with programs to solve the problem"
    " above, and put your final answer within \\boxed{}.",
    "tool_zh": "{q}\n请结合自然语言和Python程序语言来解答问题，并把最终答案放置于\\boxed{}中。",
}
QUESTIONS_AND_ANSWERS = (
    (
        "If $x^2 - 5x + 6 = 0$, what is the sum of the 2 roots?",
        "The roots are 2 and 3.\nTheir sum is $\\boxed{5}$.",
    ),
    (
        "小明有12个苹果，吃了3个，还剩几个？",
        "12-3=9，所以答案是\\boxed{9}。",
    ),
)
CHAT = (
    {"role": "system", "content": "You are a careful mathematician."},
    {"role": "user", "content": "What is 1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "再加 10 呢？"},
    {"role": "assistant", "content": "\\boxed{12}"},
    {"role": "user", "content": "Thanks.\n"},
)


def golden(tokenizer_json: pathlib.Path) -> dict:
    """{"prompts": [...], "chat": {...}} of texts and ids."""
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_json), bos_token=BOS, eos_token=EOS
    )
    tokenizer.chat_template = CHAT_TEMPLATE

    def chat_ids(messages, generate):
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=generate, tokenize=False
        )
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rows = []
    for question, answer in QUESTIONS_AND_ANSWERS:
        row = {"prompt": "plain", "version": 1, "question": question, "answer": answer}
        text = BOS + question
        row["ids"] = tokenizer(text, add_special_tokens=False)["input_ids"]
        text += " " + answer + EOS
        row["example_ids"] = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append(row)
        for prompt, message in USER_MESSAGE.items():
            row = {"prompt": prompt, "version": 1, "question": question, "answer": answer}
            user = {"role": "user", "content": message.replace("{q}", question)}
            row["ids"] = chat_ids([user], True)
            row["example_ids"] = chat_ids([user, {"role": "assistant", "content": answer}], False)
            rows.append(row)
    chat = {"messages": list(CHAT), "ids": chat_ids(list(CHAT), True)}
    return {"prompts": rows, "chat": chat}


def main() -> None:
    beside = HERE.parents[2] / "shared" / "data"
    data = pathlib.Path(os.environ.get("DSMATH_DATA", beside))
    rows = golden(data / "tokenizer" / "tokenizer.json")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows["prompts"]]
    text = '{"prompts": [\n' + ",\n".join(lines)
    text += '\n],\n"chat": ' + json.dumps(rows["chat"], ensure_ascii=False) + "}\n"
    (HERE / "golden_prompts.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
