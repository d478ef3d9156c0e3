"""From web archives to a decontaminated mathematical corpus, by iteration (DeepSeekMath 2.1)."""
