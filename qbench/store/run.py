"""The record of a trial in MLflow, as far as qbench reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun


class Run(NamedTuple):
    """One run of MLflow. A tuple, since thousands are read at once, and without MLflow.

    Attributes:
        run_id: MLflow's id of the run.
        name: Readable name.
        experiment_id: MLflow's id of the experiment that the run belongs to.
        status: ``FINISHED``, ``FAILED``, or a status of a run that does not count.
        start_time: Start in milliseconds since 1970.
        end_time: End in milliseconds since 1970. None if it has not ended.
        artifact_uri: Address of the folder of its artifacts.
        tags: Tags by name.
        metrics: Last value of each metric by name.
    """

    run_id: str
    name: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None
    artifact_uri: str
    tags: dict[str, str]
    metrics: dict[str, float]

    @classmethod
    def of(cls, run: MlflowRun) -> Run:
        """Return a run that MLflow has read."""
        info, data = run.info, run.data
        return cls(
            info.run_id,
            info.run_name,
            str(info.experiment_id),
            info.status,
            info.start_time,
            info.end_time,
            info.artifact_uri or "",
            dict(data.tags),
            dict(data.metrics),
        )
