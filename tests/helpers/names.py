"""Names that people and programs give to classes and images, and that some reader takes for something else."""

from __future__ import annotations

AWKWARD = [
    *("NA", "null", "None", "nan", "<script>alert(1)</script>", "|", "a|b", "`", "``a`", "../x", "x" * 300, "🦊 fox"),
    *("# not a heading", "- no item", "1. no list", "1) no", "===", "a\nb", "\\|", "\\", "&lt;", "&#124;", "[a](b)"),
    *("~~a~~", "*a*", "_a_", "a_b", "__a__", "$x$", "\u202eabc", "\u2067a\u2069b", "\u200fa", "a\u2028b", "![x](y)"),
    *("<!-- a", "> a", "a/b", "~1", "'quoted'", '"quoted"', "{{ a }}", "{% a %}", "</script>", "true", "007", "1e5"),
]
