"""How fast models are, beside full precision."""

from __future__ import annotations

from qbench.deployment.latency import alternate, processor, processors


def test_two_functions_are_called_in_turns_and_timed() -> None:
    called: list[str] = []
    now = 0.0

    def run(name: str, *seconds: float) -> None:
        nonlocal now
        now += seconds[called.count(name) % len(seconds)]
        called.append(name)

    found = alternate(
        [lambda: run("a", 0.1, 0.1, 9.0), lambda: run("b", 0.2, 0.2, 0.2)], clock=lambda: now
    )
    assert called[:6] == ["a", "b"] * 3
    assert len(called) == 12  # five turns take longer than the time there is
    assert [[round(each, 6) for each in times] for times in found] == [
        [0.1, 9.0, 0.1, 0.1, 9.0], [0.2] * 5,
    ]  # fmt: skip


def test_the_processor_is_named() -> None:
    assert processor()
    assert processors() >= 1
