from __future__ import annotations

import pandas as pd

from qbench.report.tables.latex import details_to_latex
from tests.helpers.frames import full, trials
from tests.helpers.tables import (
    markdown,
    only,
)


def test_a_table_says_what_its_rows_were_run_with() -> None:
    recipe = '{{"lr": {}, "schedule": "cosine", "gamma": 0.1, "clip": null, "momentum": 0.9}}'
    options = '{{"rate": 5.0, "kind": "{}"}}'
    found = only(
        full(99.0, options="{}", training='{"lr": 1.0}'),
        trials("A", 9.0, method="m", options=options.format("x"), training=recipe.format(0.2)),
        trials("B", 9.0, method="m", options=options.format("y"), training=recipe.format(0.1)),
    )
    assert found.settings == [
        "Recipe: schedule = cosine, momentum = 0.9",
        "Every row: rate = 5",
        "A: kind = x, lr = 0.2",
        "B: kind = y, lr = 0.1",
    ]
    assert "- B: kind = y, lr = 0.1" in markdown(found)
    assert (
        r"\paragraph{Settings of net on digits.} Recipe: schedule = cosine, momentum = 0.9; Every"
    ) in details_to_latex([], [found])


def test_a_method_that_is_not_trained_is_named_and_has_no_recipe() -> None:
    recipe = '{"lr": 0.1, "epochs": 5}'
    found = only(
        trials("A", 9.0, method="m", options="{}", training=recipe, epochs=5),
        trials("B", 9.0, method="n", options='{"p": 2}', training='{"epochs": 0}', epochs=0),
    )
    assert found.settings == ["Recipe: lr = 0.1, epochs = 5", "B: p = 2"]
    assert "5 epochs; calibrated only, without training: B" in found.caption


def test_a_cell_that_has_no_result_by_design_has_no_settings() -> None:
    found = only(
        trials("A", 9.0, bits="2/2", options='{"x": 1}', training='{"epochs": 5}'),
        trials(
            "A", "unsupported", bits="1/1", options='{"x": 1}', training='{"epochs": 5, "lr": 0.1}',
        ),
    )  # fmt: skip
    assert found.settings == ["Recipe: epochs = 5", "A: x = 1"]


def test_settings_are_told_apart_by_method() -> None:
    found = only(
        trials("A", 9.0, method="m", options='{"phases": [1.0, 0.5], "on": true}', training="{}"),
        trials("B", 9.0, method="n", options="{}", training="{}"),
        trials("C", 9.0, method="o", options='{"levels": null}', training="{}"),
    )
    assert found.settings == ["A: phases = (1, 0.5), on = true", "C: levels = null"]


def test_settings_are_told_apart_by_width_where_a_row_has_several() -> None:
    def cell(bits: str, epochs: int) -> pd.DataFrame:
        training = f'{{"epochs": {epochs}}}'
        return trials("A", 90.0, bits=bits, epochs=epochs, training=training, options='{"x": 1}')

    found = only(cell("1/32", 10), cell("2/32", 20), cell("3/32", 20))
    assert [label for label, _ in found.rows] == ["A"]
    assert found.settings == [
        "Every row: x = 1",
        "A at 1/32: epochs = 10",
        "A at 2/32, 3/32: epochs = 20",
    ]
