"""Connection to MLflow: the address of the store, its client, its experiments and its errors.

The default store is a sqlite database in the results folder. ``MLFLOW_TRACKING_URI`` names another
store, such as a tracking server.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from qbench import files
from qbench.errors import QbenchError
from qbench.store import sqlite
from qbench.store.run import Run
from qbench.store.tags import KEY, SET_ASIDE

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

_PAGE = 1000
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_LOCAL_SERVER = "http://127.0.0.1:5000"  # of `mlflow ui`
# The kind makes MLflow's page open on the runs, and not on traces, of which there are none.
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "Trials of a suite of qbench, one run each. The name of a run is its method, bit-widths, "
        "seed, model and dataset. Metrics that begin with `final_` are those of the hardened "
        "network; the others are by epoch. `qbench leaderboard` makes tables of the runs."
    ),
}
_QUOTED = frozenset("%?#")  # characters that have a meaning in a URI
_LONG = 6  # characters of a password that no ordinary word is taken for
_CREDENTIALS = re.compile(r"(://[^\s:/@]*:)[^\s/@]+@")


class Connection:
    """Connection to a store. It is opened on the first use of `client`.

    Args:
        results: Results folder, which holds the default store.
        local: If True, use the default store and ignore ``MLFLOW_TRACKING_URI``.

    Attributes:
        address: Address for messages: the file of a database, or a URI without its password.
        is_default: Whether it is the store of the results folder.
        database: File of the store if it is a sqlite database, which can be read without MLflow.
        artifacts: Folder of the artifacts of a store that is a database.

    Raises:
        QbenchError: A server does not answer, or no database can have the name of the folder. A
            database raises other errors on the first use.
    """

    def __init__(self, results: Path, local: bool = False) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._folder = files.resolved(results)
        self.artifacts = self._folder / "artifacts"
        given = "" if local else os.environ.get("MLFLOW_TRACKING_URI", "")
        self.is_default = not given
        if self.is_default:
            self._folder.mkdir(parents=True, exist_ok=True)
        self.database: Path | None = None
        if self.is_default:
            self.database = self._folder / "mlflow.db"
        elif given.startswith("sqlite:"):
            self.database = _file_of(given)
        self._uri = given or _sqlite_uri(self._folder / "mlflow.db")
        self._is_database = self._uri.partition(":")[0].partition("+")[0] in _DATABASES
        self.address = str(self.database or self.without_password(self._uri))
        self._client: MlflowClient | None = None
        if self.database is None:
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
        logging.getLogger("alembic").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="mlflow")
        only = _holding(self._folder) if self.is_default else nullcontext()
        try:
            with only:
                from mlflow.tracking import MlflowClient  # slow to import; reading needs no MLflow

                logging.getLogger("mlflow").setLevel(logging.CRITICAL)
                client = MlflowClient(tracking_uri=self._uri)
                client.search_experiments(max_results=1)
        except Exception as error:
            reason = self.without_password(mlflow_reason(error))
            raise QbenchError(f"cannot open the store {self.address}: {reason}") from error
        if self.database is not None and self._uri != f"sqlite:///{self.database}":
            with suppress(OSError):  # MLflow creates the folder of the quoted path
                Path(self._uri.removeprefix("sqlite:///")).parent.rmdir()
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
        except Exception as error:
            from mlflow.exceptions import MlflowException

            if not isinstance(error, MlflowException | OSError | sqlite3.Error):
                raise
            reason = self.without_password(mlflow_reason(error))
            raise QbenchError(f"{failure} {self.address}: {reason}") from error

    def without_password(self, text: str) -> str:
        """Replace passwords of the store, and those in other addresses, by asterisks.

        Args:
            text: Text for a message.
        """
        for secret in _secrets(self._uri):
            text = text.replace(f"{secret}@", "***@")
            if len(secret) >= _LONG:
                text = text.replace(secret, "***")
        return _CREDENTIALS.sub(r"\1***@", text)

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, and create the experiment if it does not exist.

        Args:
            name: Name of the experiment.

        Raises:
            QbenchError: The experiment was deleted.
            mlflow.exceptions.MlflowException: MLflow refuses.
        """
        from mlflow.exceptions import MlflowException

        location = (self.artifacts / name).as_uri() if self._is_database else None
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, location, _EXPERIMENT_TAGS))
            except MlflowException:  # another process created it in between
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            tool = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            if self.is_default:
                tool = f"MLFLOW_TRACKING_URI={shlex.quote(self._uri)} {tool}"
            raise QbenchError(
                f"the experiment '{name}' in {self.address} was deleted, so its results do not "
                f"count and no more can be recorded. Restore it with `{tool}`"
            )
        if self.is_default and found.artifact_location != location:
            self._move_artifacts(found, str(location))
        return str(found.experiment_id)

    def _move_artifacts(self, experiment: Experiment, location: str) -> None:
        """Rewrite addresses of artifacts that were recorded before the results folder was moved."""
        old = experiment.artifact_location
        if self.database is not None and old.endswith(f"/artifacts/{experiment.name}"):
            sqlite.move_artifacts(self.database, experiment.experiment_id, old, location)

    def link(self, experiment: str) -> str:
        """Return where a browser shows the runs of an experiment, to end a sentence with.

        Args:
            experiment: Name of the experiment, which must exist.

        Returns:
            The address of the page on a server. For a database, the command that starts the server
            comes first.

        Raises:
            QbenchError: The experiment was deleted.
            mlflow.exceptions.MlflowException: MLflow refuses.
        """
        return self._link(f"/#/experiments/{self.experiment(experiment)}/runs")

    def link_of(self, experiment: str, run: str) -> str:
        """Return where a browser shows a run, in the form of `link`.

        Args:
            experiment: Id of the experiment.
            run: Id of the run.
        """
        return self._link(f"/#/experiments/{experiment}/runs/{run}")

    def _link(self, page: str) -> str:
        if self._uri.startswith(("http:", "https:")):
            return re.sub(r"//[^/@]*@", "//", self._uri).rstrip("/") + page
        uri = shlex.quote(self.without_password(self._uri))
        return f"`mlflow ui --backend-store-uri {uri}`, then {_LOCAL_SERVER}{page}"

    def experiment_name(self, experiment: str) -> str:
        """Return the name of an experiment.

        Args:
            experiment: Id of the experiment.

        Raises:
            QbenchError: The store cannot be read.
        """
        name = sqlite.experiment_name(self.database, experiment) if self.database else None
        with self.reporting("cannot read the store"):
            return name or str(self.client.get_experiment(experiment).name)

    def search(self, condition: str) -> Iterable[Run]:
        """Search the runs of trials that count, in the order in which they started.

        Args:
            condition: Condition in MLflow's language.

        Yields:
            Runs with a key that were not set aside.

        Raises:
            QbenchError: The store cannot be read.
        """
        from mlflow.entities import ViewType

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
                yield from (run for run in map(Run.of, page) if SET_ASIDE not in run.tags)
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


def _sqlite_uri(path: Path) -> str:
    """Return the URI of a database file.

    Characters are quoted only where that is needed: MLflow creates the folders of the quoted path.

    Args:
        path: Absolute path of the file.

    Raises:
        QbenchError: This version of SQLAlchemy has no URI for such a path.
    """
    plain = f"sqlite:///{path}"
    if not _QUOTED.intersection(plain):
        return plain
    from sqlalchemy import URL, make_url

    quoted = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    for uri in (plain, quoted):
        if make_url(uri).database == str(path):
            return uri
    raise QbenchError(
        f"{path.parent}: a results folder cannot have %, ? or # in its path with this version of "
        "SQLAlchemy; choose another folder"
    )


def _file_of(uri: str) -> Path:
    """Return the file of a sqlite database."""
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "")


def _secrets(uri: str) -> list[str]:
    """Return the passwords and tokens in an address, as they are written and unquoted."""
    parts = urlsplit(uri)
    if parts.scheme.startswith("sqlite"):  # a path, in which "@" and ":" have no meaning
        return []
    web = parts.scheme in ("http", "https")
    authority = parts.netloc if web else uri.partition("://")[2]
    user, colon, password = authority.rpartition("@")[0].partition(":")
    found = [password if colon else user if web else ""]
    found += [value for name, value in parse_qsl(parts.query) if "password" in name.lower()]
    return [secret for each in found if each for secret in (each, unquote(each))]


def mlflow_reason(error: BaseException) -> str:
    """Return in one line why MLflow refused.

    MLflow wraps the errors of a database, and their first line may say nothing of the reason.

    Args:
        error: Error that MLflow raised.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(original := getattr(cause, "orig", None), BaseException):
            error = original
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
