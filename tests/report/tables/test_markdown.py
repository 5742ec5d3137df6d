from __future__ import annotations

import re

from tests.helpers.frames import trials
from tests.helpers.tables import (
    markdown,
    only,
)


def test_markdown_reads_as_plain_text() -> None:
    found = only(
        trials("A", 97.0, 98.0, 99.0, bits="3(±4)/32"),
        trials("Quantization Networks (temperature_rate=10)", 7.0, "failed", bits="3(±4)/32"),
    )
    rows = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert "| Quantization Networks (temperature_rate=10) |" in rows[3]


def test_markdown_is_escaped() -> None:
    label, reason = "a|b *c* <d> _e_ f_g `h` [i](j) &lt; $k$", "\x1b[31m__init__ | broke\x1b[0m"
    text = markdown(only(trials(label, 1.0, "failed", reason=reason)))
    assert r"a\|b \*c\* \<d\> \_e\_ f_g \`h\` \[i\](j) \&lt; \$k\$" in text
    assert r"\_\_init\_\_ \| broke" in text
    assert "\x1b" not in text
    cells = re.split(r"(?<!\\)\|", next(line for line in text.splitlines() if "broke" not in line))
    assert len(cells) == 1
    assert all(
        len(re.split(r"(?<!\\)\|", line)) == 4 for line in text.splitlines() if line[:1] == "|"
    )
