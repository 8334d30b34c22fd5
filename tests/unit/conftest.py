"""A registry without a server, and a lake on the local disk, for a small model."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lakehouse.settings import Mlflow, Settings
from tests.unit.local_lake import local_lake, write


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database, whose making takes seconds."""
    from models.registry import Registry

    made = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Registry(Settings(mlflow=Mlflow(uri=f"sqlite:///{made}")))
    return made


@pytest.fixture
def small_model(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Where ``means``, the model of small_model.py, is the only one."""
    import models.kinds
    from models import lifecycle
    from tests.unit.small_model import Means

    monkeypatch.chdir(tmp_path)  # where MLflow without a server keeps artefacts
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    monkeypatch.setattr(models.kinds, "KINDS", ("means",))
    monkeypatch.setitem(sys.modules, "models.means.kind", type("M", (), {"KIND": Means()}))
    monkeypatch.setattr(lifecycle, "SOURCES", {"means": ()})
    lake = local_lake(tmp_path)
    write(lake, "ops.promotions", [])
    return lake.model_copy(update={"mlflow": Mlflow(uri=f"sqlite:///{tmp_path}/mlflow.db")})
