"""Development tasks.

`nox` runs the default ones, `nox --session lint` runs one, and `nox --list` names all of them. Each
task gets an environment of its own; `nox --no-venv --no-install` uses the active one instead.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "imports", "tests", "docs", "wheel"]
nox.options.reuse_existing_virtualenvs = True

SITE_PACKAGES = "import sys; print('\\n'.join(p for p in sys.path if 'site-packages' in p))"


def install(session: nox.Session, *packages: str) -> None:
    """Install packages in the versions of constraints.txt."""
    session.install("-q", "-c", "constraints.txt", *packages)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy."""
    install(session, "-e", ".[dev]")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that packages import only from those below them."""
    install(session, "import-linter")
    session.run("lint-imports")


@nox.session(python=["3.11", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests; what follows `--` goes to pytest."""
    install(session, "-e", ".[dev,deploy,optuna,timm]")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation's site into build/site."""
    install(session, "-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--quiet")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and use it in an empty folder.

    It is installed without its dependencies, into an environment that sees those of the session.
    """
    install(session, "-e", ".[dev]")
    shutil.rmtree("build/lib", ignore_errors=True)  # files deleted since would be in the wheel
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        session.run(
            "python", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, silent=True
        )
        (file,) = work.glob("*.whl")
        session.run("python", "-m", "venv", "--without-pip", f"{folder}/env")
        (own,) = (work / "env").glob("lib/python*/site-packages")
        packages = session.run("python", "-c", SITE_PACKAGES, silent=True)
        (own / "dependencies.pth").write_text(str(packages))
        python, qbench = f"{folder}/env/bin/python", f"{folder}/env/bin/qbench"
        session.run("python", "-m", "pip", "--python", python, "install", "-q", "--no-deps", file)
        (work / "empty").mkdir()
        with session.chdir(work / "empty"):
            where = session.run(
                python, "-c", "import qbench; print(qbench.__file__)", silent=True, external=True
            )
            if not str(where).startswith(folder):
                session.error(f"qbench was imported from {where}, not from the wheel")
            session.run(qbench, "--version", external=True)
            session.run(qbench, "list", "suites", external=True)
            session.run(qbench, "plan", "qn_bias", external=True)
            session.run(qbench, "plan", "digits_strat", external=True, success_codes=[2])
            small = ["seeds=[0]", "bits=[2/2]", "recipe.epochs=1", "full_precision.epochs=1"]
            changes = [word for change in small for word in ("--set", change)]
            session.run(qbench, "run", "digits_start", *changes, external=True)
            session.run(qbench, "leaderboard", "qn_bias", external=True)  # has published numbers


@nox.session(python="3.11", default=False)
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows; `--` selects tests."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    lowest = [requirement.replace(">=", "==") for requirement in project["dependencies"]]
    # SQLAlchemy 2.1 removed a class that the lowest MLflow imports.
    session.install("-q", "-e", ".[dev]", "sqlalchemy<2.1", *lowest)
    session.run("pytest", *session.posargs)
