"""The detection task, and learning."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from qbench import distributed as parallel
from qbench.data.shapes import Shapes
from qbench.data.synthetic import voc_like
from qbench.models.ssd import ssd_tiny
from qbench.quant.attach import attach
from qbench.spec.recipe import Recipe
from qbench.tasks import detection
from qbench.train.loading import Loader, evaluation_loader, training_loader
from tests.helpers.boxes import FAR, A, B, Image, found, objects
from tests.helpers.detectors import TINY, batch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Says(nn.Module):
    """A detector that returns what it is told, image by image."""

    def __init__(self, *detections: Image) -> None:
        super().__init__()
        self.detections = list(detections)

    def forward(self, images: Tensor) -> list[Image]:
        mine = self.detections[: len(images)]
        del self.detections[: len(images)]
        return mine


def blank(count: int) -> Tensor:
    return torch.zeros(count, 3, 8, 8)


# Metrics -----------------------------------------------------------------------------------------


def test_the_first_metric_is_vocs_of_2007() -> None:
    # As in tests/tasks/test_voc_ap.py: A, A again, first of the second image, nothing, B.
    model = Says(found((A, 0.9), (A, 0.8), (B, 0.5)), found((FAR, 0.6), (A, 0.7)))
    batches = [(blank(1), [objects(A, B)]), (blank(1), [objects(A)])]
    metrics = detection.evaluate(model, batches)
    assert list(metrics) == ["map50_voc07", "map50", "map"]
    assert metrics["map50_voc07"] == pytest.approx(100 * (4 + 2 + 2.4) / 11)
    assert metrics["map50"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 3)


def test_cocos_metric_is_the_mean_over_overlaps() -> None:
    # An overlap of 7.2/10 reaches 0.5, 0.55, 0.6, 0.65 and 0.7 of ten thresholds.
    model = Says(found(([0, 0, 10, 7.2], 0.9)))
    metrics = detection.evaluate(model, [(blank(1), [objects(A)])])
    assert metrics == pytest.approx({"map50_voc07": 100, "map50": 100, "map": 50})


def test_a_difficult_object_lowers_no_metric() -> None:
    for detections in ([(A, 0.5)], [(A, 0.5), (B, 0.9), (B, 0.8)]):
        model = Says(found(*detections))
        metrics = detection.evaluate(model, [(blank(1), [objects(A, B, difficult=(1,))])])
        assert metrics == pytest.approx({"map50_voc07": 100, "map50": 100, "map": 100})


def test_a_detector_that_finds_nothing_has_zero() -> None:
    metrics = detection.evaluate(Says(found()), [(blank(1), [objects(A)])])
    assert metrics == {"map50_voc07": 0, "map50": 0, "map": 0}


def each_evaluates(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=Path(folder, "store").as_uri(), rank=rank, world_size=2
    )
    detections, targets = three_images()
    share = slice(rank, None, 2)
    metrics = detection.evaluate(Says(*detections[share]), [(blank(3)[share], targets[share])])
    items = parallel.interleave(list(range(5))[share])
    torch.save((metrics, items), Path(folder, f"{rank}.pt"))
    parallel.end_process()


def three_images() -> tuple[list[Image], list[Image]]:
    """Detections and targets whose precision no two of them have alone."""
    detections = [found((A, 0.9), (A, 0.8), (B, 0.5)), found((FAR, 0.6), (A, 0.7)), found((B, 0.4))]
    return detections, [objects(A, B), objects(A), objects(A, B)]


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    spawn(each_evaluates, (str(tmp_path),), nprocs=2, join=True)
    detections, targets = three_images()
    alone = detection.evaluate(Says(*detections), [(blank(3), targets)])
    for rank in (0, 1):
        metrics, items = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert metrics == alone
        assert items == list(range(5))


# Loss --------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_of_the_detectors() -> None:
    torch.manual_seed(0)
    model, data = ssd_tiny(6).train(), batch()
    losses = model(*data)
    assert set(losses) == {"bbox_regression", "classification"}
    expected = losses["bbox_regression"] + losses["classification"]
    torch.testing.assert_close(detection.loss(model, data), expected)
    assert detection.inputs(data) is data[0]


def test_an_image_without_objects_can_be_trained_on() -> None:
    torch.manual_seed(0)
    model, (images, targets) = ssd_tiny(6).train(), batch()
    loss = detection.loss(model, (images, [targets[0], objects()]))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_step_can_be_timed_on_noise() -> None:
    images, targets = detection.random_batch(3, (3, 96, 96), 6, CPU)
    assert images.shape == (3, 3, 96, 96)
    assert targets[0]["boxes"].tolist() == [[24, 24, 72, 72]]
    assert all(1 <= int(target["labels"]) <= 5 for target in targets)
    assert detection.loss(ssd_tiny(6).train(), (images, targets)).isfinite()


# Learning ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    folder = tmp_path_factory.mktemp("shapes")
    voc_like.write(folder)
    return Shapes(root=str(folder))


def loaders(dataset: Shapes, recipe: Recipe) -> tuple[Loader, Loader]:
    order = torch.Generator().manual_seed(0)
    training = training_loader(dataset, dataset.train(), recipe, 0, order, 0, CPU)
    return training, evaluation_loader(dataset, dataset.test(), recipe, 0, CPU)


def train(
    model: nn.Module, method: str, bits: str, dataset: Shapes, recipe: Recipe
) -> tuple[nn.Module, float]:
    """Train by a recipe, as a trial does; returns the hardened network and its mAP."""
    training, test = loaders(dataset, recipe)
    layers = TINY if method != "fp32" else "skip_first_last"
    calibration = [next(iter(training))[0]]
    handle = attach(
        model, method, bits=bits, layers=layers, calibration=calibration, task="detection"
    )
    groups = handle.parameter_groups(lr=recipe.lr, weight_decay=recipe.weight_decay)
    optimizer = torch.optim.Adam(groups, lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    for epoch in range(1, recipe.epochs + 1):
        handle.on_epoch_start(epoch, recipe.epochs, steps=1)
        handle.model.train()
        for data in training:
            optimizer.zero_grad()
            (detection.loss(handle.model, data) + handle.regularization_loss()).backward()
            if recipe.gradient_clip is not None:
                parameters = [p for group in groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            handle._before_optimizer_step()
            optimizer.step()
            handle._after_optimizer_step()
        schedule.step()
    hard = handle.harden().eval()
    return hard, detection.evaluate(hard, test)["map50_voc07"]


def test_a_tiny_detector_learns_drawn_shapes_in_two_epochs(shapes: Shapes) -> None:
    torch.manual_seed(0)
    recipe = Shapes.full_precision_recipe.model_copy(update={"epochs": 2})
    assert train(ssd_tiny(6), "fp32", "32/32", shapes, recipe)[1] > 50


@pytest.fixture(scope="module")
def full_precision(shapes: Shapes) -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, metric = train(ssd_tiny(6), "fp32", "32/32", shapes, Shapes.full_precision_recipe)
    assert metric > 95
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "bits", "least"),
    [
        ("ste", "2/32", 95),
        ("lsq", "4/4", 95),
        ("twn", "2/32", 95),
        ("quantization_networks", "3(±4)/32", 95),
        ("quantization_networks", "3(±4)/8", 95),
        ("lq_nets", "2/2", 90),
        ("dorefa", "1/1", 80),
    ],
)
def test_a_quantized_detector_is_fine_tuned_by_the_aligned_recipe(
    shapes: Shapes, full_precision: nn.Module, method: str, bits: str, least: float
) -> None:
    torch.manual_seed(0)
    model = copy.deepcopy(full_precision)
    assert train(model, method, bits, shapes, Shapes.aligned_recipe)[1] > least


def test_what_a_detector_finds_in_the_first_images_is_kept(shapes: Shapes) -> None:
    model = Says(found((A, 0.5), (B, 0.9), (FAR, 0.1)), *[found()] * 3)
    model.register_parameter("somewhere", nn.Parameter(torch.zeros(1)))
    first, *others = detection.examples(model, shapes)
    assert first.boxes == [B, A]
    assert first.scores == pytest.approx([0.9, 0.5])
    assert first.labels == [1, 1]
    assert [other.scores for other in others] == [[], [], []]
    images, targets = shapes.first(3)
    assert images.shape == (3, 3, 96, 96)
    assert images.max() <= 1
    assert torch.equal(targets[1]["boxes"], shapes.test()[1][1]["boxes"])
