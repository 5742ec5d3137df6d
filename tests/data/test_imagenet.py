"""ImageNet, from folders and from lists."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench import registry
from qbench.data.synthetic import imagenet_like
from qbench.errors import QbenchError
from qbench.spec.trial import Trial
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from qbench.train.building import ExecutionEnvironment
from qbench.train.loading import evaluation_loader, training_loader
from qbench.train.trial import Training
from tests.helpers.images import CPU, RECIPE, SIZE, imagenet, order

SUITES = Path(__file__).parents[2] / "suites"


def test_imagenet_is_read_from_its_folders(tree: Path) -> None:
    dataset = imagenet(tree)
    assert not dataset.missing()
    assert dataset.num_classes == 3
    assert dataset.sizes() == (18, 3)
    image, label = dataset.test()[2]
    assert image.shape == (3, SIZE, SIZE)
    assert image.dtype == torch.uint8
    assert label == 2


def test_imagenet_is_read_from_lists_to_the_same_images(tree: Path, tmp_path: Path) -> None:
    """The layout of arXiv:1911.09464's code: images in any folders, and a list for each split."""
    for split in ("train", "val"):
        shutil.copytree(tree / split, tmp_path / "images" / split)
        lines = (tree / f"{split}.txt").read_text().splitlines()
        listed = "\n".join(f"images/{line}" for line in lines)
        (tmp_path / f"{split}.txt").write_text(listed)
    by_list, by_folder = imagenet(tmp_path), imagenet(tree)
    assert by_list.sizes() == by_folder.sizes()
    for i in range(3):
        (image, label), (other, number) = by_list.test()[i], by_folder.test()[i]
        assert torch.equal(image, other)
        assert label == number


def test_the_folder_may_be_named_by_the_environment(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBENCH_DATA", str(tree.parent))
    assert registry.build_dataset("imagenet").sizes() == (18, 3)


def test_a_home_folder_is_expanded_in_an_option_and_in_the_environment(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tree.parent))
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    named = registry.build_dataset("imagenet", {"root": f"~/{tree.name}"})
    monkeypatch.setenv("QBENCH_DATA", "~")
    assert named.sizes() == registry.build_dataset("imagenet").sizes() == (18, 3)


def test_bytes_are_standardised_on_the_device(tree: Path) -> None:
    white = imagenet(tree).to_input(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white[0, :, 0, 0], expected)


def test_only_what_is_not_imagenets_makes_a_key_another_one(tree: Path) -> None:
    assert registry.build_dataset("imagenet", {"root": "/nowhere"}).identity() == {}
    assert imagenet(tree).identity() == {"image_size": SIZE, "classes": 3, "train": 18, "test": 3}


def test_other_images_are_not_called_imagenet(tree: Path) -> None:
    assert registry.build_dataset("imagenet", {"root": "/nowhere"}).label == ""
    assert imagenet(tree).label == "3 classes in ImageNet's layout"


def test_a_batch_does_not_depend_on_who_loads_it(tree: Path) -> None:
    def batches(workers: int) -> list[Any]:
        dataset = imagenet(tree)
        loader = training_loader(dataset, dataset.train(), RECIPE, 7, order(), workers, CPU)
        return [batch for _ in range(2) for batch in loader]

    alone, helped = batches(0), batches(2)
    assert len(alone) == 2 * 5
    for (images, labels), (others, numbers) in zip(alone, helped, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, numbers)
    first, second = alone[0][0], alone[5][0]
    assert not torch.equal(first, second)  # another order and other crops in every epoch


def test_loading_draws_nothing_from_the_global_generator(tree: Path) -> None:
    dataset = imagenet(tree)
    for workers in (0, 1):
        torch.manual_seed(0)
        list(training_loader(dataset, dataset.train(), RECIPE, 7, order(), workers, CPU))
        assert torch.equal(torch.rand(3), torch.rand(3, generator=order()))


def test_the_broken_image_is_left_out_and_named(tree: Path) -> None:
    broken = str(imagenet_like.write(tree, classes=3, per_class=6, size=48).broken)
    for workers in (0, 1):
        dataset = imagenet(tree)
        loader = training_loader(dataset, dataset.train(), RECIPE, 0, order(), workers, CPU)
        assert sum(len(labels) for _, labels in loader) == 17
        (told,) = loader.unreadable()
        assert told.split(" (")[0] == broken.removeprefix(f"{tree}/")
        assert "truncated" in told


def test_a_trial_tells_what_it_could_not_read(tree: Path) -> None:
    data = {"root": str(tree), "image_size": SIZE}
    trial = Trial(
        method="fp32",
        model="resnet18",
        dataset="imagenet",
        task="classification",
        bits="32/32",
        recipe=RECIPE.model_copy(update={"batch_size": 9, "channels_last": True}),
        seed=0,
        data=imagenet(tree).identity(),
    )
    training = Training(trial, None, ExecutionEnvironment(data, cpus=2))
    assert len(list(training.epochs())) == 1
    assert training.result.status == "done", training.result.reason
    assert training.result.unreadable_text.startswith("1 item could not be read and left out: ")
    elsewhere = Training(trial, None, ExecutionEnvironment({**data, "image_size": 40}))
    assert not list(elsewhere.epochs())
    assert "the data here are {'image_size': 40" in elsewhere.result.reason


def test_a_batch_of_nothing_but_broken_images_is_an_error(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "x.jpeg").write_bytes(b"no image")
    dataset = imagenet(tmp_path)
    loader = evaluation_loader(dataset, dataset.test(), RECIPE, 0, CPU)
    with pytest.raises(Exception, match=r"no item of a batch can be read; .*val/a/x\.jpeg"):
        list(loader)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ([], "expected a folder 'train' or a list 'train.txt' in .*; found nothing"),
        (["pictures/"], "found pictures. `qbench data imagenet-like FOLDER` writes a small tree"),
        (["train/a/"], "has neither a folder 'val' nor a list 'val.txt'; it has train"),
    ],
)
def test_a_missing_folder_is_told_with_what_is_there(
    tmp_path: Path, make: list[str], message: str
) -> None:
    for name in make:
        (tmp_path / name).mkdir(parents=True)
    dataset = imagenet(tmp_path)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(dataset.missing())
    assert dataset.sizes() == (1_281_167, 50_000)  # a suite can be planned all the same
    assert dataset.num_classes == 1000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.txt", "a.jpeg\n", r"train\.txt:1: expected `path label`, found 'a\.jpeg'"),
        ("train.txt", "a.jpeg 0\nb.jpeg one", r"train\.txt:1: there is no image .*a\.jpeg"),
        (
            "val/flat.JPEG",
            "",
            "should hold a folder of images for every class.*holds flat.JPEG",
        ),
        ("val/empty/", "", "its folders hold no image"),
    ],
)
def test_a_layout_that_is_none_is_refused(
    tmp_path: Path, tree: Path, name: str, text: str, message: str
) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir(parents=True)
    else:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if name.startswith("val"):
        shutil.copytree(tree / "train", tmp_path / "train")
    else:
        shutil.copytree(tree / "val", tmp_path / "val")
    with pytest.raises(QbenchError, match=message):
        imagenet(tmp_path).identity()


@pytest.mark.parametrize("name", ["bias", "layerwise", "pretrained", "temperature"])
def test_an_ablation_of_the_paper_runs_on_imagenet_by_set(tree: Path, name: str) -> None:
    changes = ["dataset=imagenet", f"data.root={tree}", "models=[resnet18]", "seeds=[0]"]
    suite = load_suite(SUITES / f"qn_{name}.yaml", [*changes, "recipe=paper"])
    grid = [planned for planned in expand(suite) if planned.trial.method != "fp32"]
    assert len(grid) == len(suite.methods) * len(suite.bits)
    assert not any(planned.unsupported for planned in grid)
    assert {planned.trial.recipe.epochs for planned in grid} == {55}
