"""Scenes and their boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qbench.data.synthetic.scene import Scene, appearance, compose


def test_a_box_is_the_tight_one_of_the_pixels_that_are_drawn() -> None:
    drawn = 0
    for i in range(60):
        scene = compose(f"a scene {i}", 20, 96)
        bare = replace(scene, things=()).picture()
        for thing, found in zip(scene.things, scene.objects(), strict=True):
            alone = replace(scene, things=(thing,)).picture()
            changed = np.asarray(alone) != np.asarray(bare)
            rows, columns = changed.any(2).nonzero()
            box = columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1
            assert found.box == box
            drawn += 1
        together = (np.asarray(scene.picture()) != np.asarray(bare)).any(2)
        masks = [scene.mask(thing) for thing in scene.things]
        assert np.array_equal(together, np.any(masks, axis=0) if masks else together & False)
        assert sum(masks, np.zeros(together.shape, int)).max(initial=0) <= 1
    assert drawn > 100


def test_truncated_is_what_has_pixels_outside() -> None:
    thing = compose("anything", 2, 96).things[0]
    inside = thing._replace(x=10, y=10)
    for x, y, truncated in ((10, 10, False), (0, 0, False), (-1, 10, True), (10, 70, True)):
        scene = Scene("anything", 96, 72, (inside._replace(x=x, y=y),))
        assert scene.objects()[0].truncated is truncated


def test_every_class_has_an_appearance_of_its_own() -> None:
    looks = [appearance(label) for label in range(20)]
    assert len(set(looks)) == 20
    assert looks[:3] == ["red disc", "yellow square", "green triangle"]


def test_the_name_of_an_appearance_is_that_of_its_pixels() -> None:
    names = {"red": 0, "green": 1, "blue": 2}
    for i in range(60):
        for thing in compose(f"a scene {i}", 20, 96).things:
            colour = appearance(thing.label).split()[0]
            if colour in names:
                assert int(np.argmax(thing.ink)) == names[colour]
