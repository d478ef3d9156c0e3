"""The Chinese styles of the generated web."""

from __future__ import annotations

from dsmath_jax.mining.generated_web_text import Style, words

CHINESE: dict[str, Style] = {
    "olympiad_zh": Style(
        "zh",
        (
            "第{n}题：已知{f}，求证{object}{claim}。",
            "设{f}，试求{adj}{object}的{value}。",
            "由{method}可知，{object}{claim}，故{f}。",
            "不妨设{object}{claim}，考虑{adj}情形：{f}。",
            "证明：用{method}，{value}不超过{n}。",
            "若{adj}{object}满足{f}，则{claim}。",
            "评注：本题{method}巧妙，{value}即得。",
            "同理{f}，从而{adj}{object}{claim}。",
            "当{f}时取等，{value}为{n}。",
            "解法二：对{object}作{method}，化简得{f}。",
        ),
        (
            "第{n}届竞赛：{object}与{value}",
            "{method}在{object}问题中的应用",
            "每日一题{n}：{adj}{object}",
        ),
        {
            "object": words(
                "正整数, 三角形, 数列, 内接圆, 质因数, 函数方程, 多项式, 弦长, 排列, 格点, 余数"
            ),
            "adj": words("任意的, 互素的, 等差, 递增的, 非负, 锐角, 奇数个, 相异的"),
            "claim": words("必共线, 恒成立, 互不相等, 有界, 至多两个, 能被整除, 存在唯一"),
            "value": words("最小值, 最大值, 面积之比, 个数, 公差, 通项, 上界"),
            "method": words(
                "抽屉原理, 数学归纳法, 柯西不等式, 反证法, 换元法, 同余, 放缩法, 面积法"
            ),
        },
        formulas="algebra",
    ),
    "notes_zh": Style(
        "zh",
        (
            "定义{n}：称{object}为{adj}，如果{f}。",
            "定理{n}：{adj}{object}必有{property}。",
            "于是{f}，即{object}的{property}成立。",
            "例{n}：计算{f}并判断{property}。",
            "注意{adj}{object}未必有{property}。",
            "根据{tool}，{object}可写成{f}。",
            "习题{n}：证明{object}是{adj}的。",
            "利用{tool}求{object}的{property}，得{f}。",
            "推论：{f}当且仅当{object}{adj}。",
        ),
        ("{object}的{property}", "第{n}讲：{tool}", "{adj}{object}笔记"),
        {
            "object": words(
                "矩阵, 向量空间, 级数, 导函数, 线性变换, 微分方程, 度量空间, 行列式, 随机变量"
            ),
            "adj": words("可逆, 连续, 一致收敛, 正定, 可微, 紧致, 可测, 对称"),
            "property": words("特征值, 极限, 秩, 零空间, 收敛半径, 期望, 不变子空间, 中值性质"),
            "tool": words("泰勒展开, 洛必达法则, 分部积分, 高斯消元, 中值定理, 正交化, 比值判别法"),
        },
        formulas="algebra",
        extra="list",
    ),
    "cooking_zh": Style(
        "zh",
        (
            "{food}切丝，加{n}克{spice}腌{n}分钟。",
            "锅中{step}，放入{food}和{spice}。",
            "小火{step}{n}分钟，{taste}即可。",
            "这道{food}{taste}，孩子最爱。",
            "没有{spice}可用{spice}代替。",
            "出锅前撒{spice}，{taste}又下饭。",
            "{n}人份需要{food}{n}两。",
        ),
        ("家常{food}的做法", "{n}分钟学会{food}", "{spice}{food}"),
        {
            "food": words("豆腐, 茄子, 排骨, 土豆, 鲈鱼, 牛腩, 白菜, 香菇, 鸡翅, 年糕, 莲藕"),
            "spice": words("生抽, 花椒, 八角, 蒜末, 料酒, 香油, 豆瓣酱, 冰糖"),
            "step": words("烧热油, 煸炒, 焖煮, 收汁, 翻炒, 炖"),
            "taste": words("鲜嫩多汁, 香辣可口, 酥脆, 软糯, 清淡, 酸甜"),
        },
    ),
    "travel_zh": Style(
        "zh",
        (
            "从{place}坐{ride}到{sight}，约{n}分钟。",
            "{sight}门票{n}元，{tip}。",
            "傍晚的{place}{mood}，适合散步。",
            "我们在{sight}等了{n}分钟，{mood}。",
            "住宿每晚{n}元起，{tip}。",
            "{place}第{n}天：{ride}，{sight}，夜市。",
            "当地人说{sight}{mood}。",
        ),
        ("{place}{n}日游攻略", "{place}的{sight}值得去吗", "坐{ride}看{place}"),
        {
            "place": words("大理, 桂林, 厦门, 成都, 敦煌, 青岛, 丽江, 西安, 乌镇"),
            "sight": words("古城, 海边, 石窟, 老街, 雪山, 湖心岛, 博物馆, 茶园"),
            "ride": words("高铁, 公交, 轮渡, 包车, 索道, 自行车"),
            "mood": words("人很多, 十分安静, 风景极美, 略显商业, 很出片"),
            "tip": words("记得提前预约, 学生半价, 周一闭馆, 早去为好, 可以讲价"),
        },
    ),
    "sports_zh": Style(
        "zh",
        (
            "{team}以{n}比{n}战胜{team}。",
            "{player}全场贡献{n}分和{n}次{act}。",
            "第{n}分钟，{player}{act}得手。",
            "{team}近{n}场保持不败。",
            "主帅称{player}的{act}是关键。",
            "本赛季{player}已有{n}次{act}。",
        ),
        ("{team}对{team}：第{n}轮", "{player}加盟{team}"),
        {
            "team": words("飞鹰队, 海狮队, 猛虎队, 星河队, 长城队, 骏马队"),
            "player": words("王磊, 陈宇, 赵阳, 孙浩, 外援席尔瓦, 老将周凯"),
            "act": words("抢断, 助攻, 扑救, 任意球, 篮板, 绝杀"),
        },
        extra="table",
    ),
    "programming_zh": Style(
        "zh",
        (
            "先安装{tool}，再修改{thing}的配置。",
            "调用{name}时{thing}会返回{n}。",
            "{tool}升级后{thing}报错，改用{name}即可。",
            "建议把{thing}拆成{n}个模块。",
            "{name}默认重试{n}次，超时写入日志。",
            "使用{tool}部署{thing}的步骤如下。",
        ),
        ("{tool}入门：{thing}", "{name}用法详解", "记一次{thing}故障"),
        {
            "tool": words("Docker, Nginx, MySQL, Maven, Vue, Redis"),
            "thing": words("线程池, 网关, 缓存, 接口, 消息队列, 前端页面, 连接池"),
            "name": words("getConfig, onLoad, sendMsg, parseDate, initPool"),
        },
        extra="code",
    ),
    "shop_zh": Style(
        "zh",
        (
            "{item}限时{n}元，{praise}。",
            "本店{item}销量{n}万件，{praise}。",
            "{part}加厚设计，重{n}克。",
            "下单满{n}元包邮，赠{item}。",
            "买家评价：{item}{praise}。",
            "尺寸{n}厘米，{part}可拆洗。",
        ),
        ("{item}{n}件装", "{praise}的{item}推荐"),
        {
            "item": words("保温杯, 双肩包, 台灯, 羽绒服, 电饭煲, 雨伞, 行李箱, 床单"),
            "part": words("拉链, 内胆, 面料, 手柄, 底座, 肩带"),
            "praise": words("性价比高, 质量很好, 颜色好看, 发货快, 做工细致, 略有色差"),
        },
        extra="table",
    ),
}
