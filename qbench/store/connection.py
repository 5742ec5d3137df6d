"""Connection to MLflow: the address of the store, its client, its experiments and its errors.

The default store is a sqlite database in the results folder. ``MLFLOW_TRACKING_URI`` names another
store, such as a tracking server.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from qbench import files
from qbench.errors import QbenchError
from qbench.store.tags import KEY, SET_ASIDE

_PAGE = 1000
_SQLITE = "sqlite:///"


class Connection:
    """Connection to a store. It is opened on the first use of `client`.

    Args:
        results: Results folder, which holds the default store.
        local: If True, use the default store and ignore ``MLFLOW_TRACKING_URI``.

    Attributes:
        uri: Address of the store.
        database: File of the store if it is a sqlite database, which can be read without MLflow.
        artifacts: Folder of the artifacts of the default store; None for another store.

    Raises:
        QbenchError: A server does not answer. A database raises it on the first use.
    """

    def __init__(self, results: Path, local: bool = False) -> None:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="mlflow")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self.uri = "" if local else os.environ.get("MLFLOW_TRACKING_URI", "")
        self.artifacts: Path | None = None
        self._folder = files.resolved(results)
        if not self.uri:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.uri = f"{_SQLITE}{self._folder / 'mlflow.db'}"
            self.artifacts = self._folder / "artifacts"
        is_file = self.uri.startswith(_SQLITE)
        self.database = Path(self.uri.removeprefix(_SQLITE)) if is_file else None
        self._client: MlflowClient | None = None
        if not is_file:
            self.open()

    @property
    def client(self) -> MlflowClient:
        """MLflow's client of the store."""
        return self.open()

    def open(self) -> MlflowClient:
        """Connect to the store on the first call, and create a database that does not exist.

        Returns:
            MLflow's client of the store.

        Raises:
            QbenchError: The store cannot be opened.
        """
        if self._client is not None:
            return self._client
        # Two commands that create one database at the same time corrupt it.
        only = _holding(self._folder) if self.artifacts is not None else nullcontext()
        try:
            with only:
                client = MlflowClient(tracking_uri=self.uri)
                client.search_experiments(max_results=1)
        except Exception as error:
            raise QbenchError(f"cannot open the store {self.uri}: {first_line(error)}") from error
        self._client = client
        return client

    @contextmanager
    def reporting(self, failure: str) -> Iterator[None]:
        """Context manager that turns errors of MLflow into errors of the user.

        Args:
            failure: What failed, such as ``cannot write to``. The address of the store follows.

        Raises:
            QbenchError: MLflow or the operating system raised an error in the block.
        """
        try:
            yield
        except (MlflowException, OSError) as error:
            raise QbenchError(f"{failure} {self.uri}: {first_line(error)}") from error

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, and create the experiment if it does not exist.

        Args:
            name: Name of the experiment.

        Raises:
            mlflow.exceptions.MlflowException: MLflow refuses.
        """
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = f"{self.artifacts.as_uri()}/{name}" if self.artifacts else None
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process created it in between
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def search(self, condition: str) -> Iterable[Run]:
        """Search the runs of trials that count, in the order in which they started.

        Args:
            condition: Condition in MLflow's language.

        Yields:
            Runs with a key that were not set aside.

        Raises:
            QbenchError: The store cannot be read.
        """
        with self.reporting("cannot read the store"):
            experiments = [
                each.experiment_id
                for each in self.client.search_experiments(view_type=ViewType.ACTIVE_ONLY)
            ]
            token = None
            while experiments:
                page = self.client.search_runs(
                    experiments,
                    f"{condition} AND tags.`{KEY}` LIKE '%'",
                    max_results=_PAGE,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
                yield from (run for run in page if SET_ASIDE not in run.data.tags)
                token = page.token
                if not token:
                    return


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """Context manager that locks a results folder. A read-only folder is not locked."""
    with ExitStack() as stack:
        with suppress(OSError):
            (folder / ".state").mkdir(exist_ok=True)
            stack.enter_context(files.lock(folder / ".state" / "store", wait=True))
        yield


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
