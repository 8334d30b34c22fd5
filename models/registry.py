"""The registry: MLflow keeps every version with its origin, ``ops.promotions`` says which one answers.

The table is the truth and the one commit: a decision is a row of it, then MLflow's alias ``@champion`` and the arrays
that ``lakehouse.predict`` reads follow (:meth:`Registry.settle`), at once and again whenever a move was cut short.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa

# Read when MLflow is imported: nothing here tells its makers what is done.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient

from lakehouse import predict
from lakehouse.ops import promotions
from lakehouse.settings import Settings
from lakehouse.sinks import batch
from lakehouse.sources.lake import Lake
from lakehouse.stack.exclusive import exclusive
from models.kinds import kind
from models.trained import Arrays, ModelError, Trained, code_version, digest

CHAMPION, CHALLENGER = "champion", "challenger"
_ARTEFACT = "published"
_DESCRIPTION = 5000
"""Characters that MLflow's column has."""
for _name in ("mlflow", "mlflow.pyfunc"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # it advises against pickled models, which hold a name here


@dataclass(frozen=True)
class Version:
    """One version of a model as the registry has it, whole and as it was registered."""

    model: str
    version: str
    manifest: dict[str, Any]
    arrays: Arrays
    data: dict[str, int]
    until: datetime
    signature: tuple[tuple[str, ...], tuple[str, ...]]
    reference: dict[str, Any]


@dataclass(frozen=True)
class About:
    """Where a version comes from: its tags (see :meth:`Registry.register`), parameters, figures, and when it was."""

    tags: dict[str, str]
    parameters: dict[str, str]
    metrics: dict[str, float]
    made_at: datetime


@dataclass(frozen=True)
class Decision:
    """A row of ``ops.promotions``."""

    model: str
    version: str
    action: str
    previous: str | None
    who: str
    why: str
    reasons: tuple[str, ...]
    decided_at: datetime


class Answers(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A version for those who work in MLflow: ``mlflow.pyfunc.load_model("models:/recommender@champion")``.

    It answers a table of inputs with a table of outputs, as the signature says, with the code of ``lakehouse.predict``.
    """

    def __init__(self, model: str) -> None:
        self.kind = model

    def load_context(self, context: Any) -> None:
        """Read manifest and arrays."""
        manifest, arrays = predict.read(Path(context.artifacts[_ARTEFACT]))
        self._model = kind(self.kind).answers(manifest, arrays)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Inputs -> outputs."""
        return kind(self.kind).call(self._model, model_input)


class Registry:
    """All models' versions and aliases.

    Raises:
        ModelError: MLflow does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        mlflow.set_tracking_uri(settings.tracking_uri)
        self._client = MlflowClient(settings.tracking_uri)
        try:
            self._client.search_registered_models(max_results=1)
        except MlflowException as error:
            raise ModelError(
                f"MLflow does not answer at {settings.tracking_uri} ({str(error)[:120]}): `lakehouse up` starts it"
            ) from None

    def register(self, trained: Trained, metrics: dict[str, float]) -> str:
        """Keep a model with its origin as a new version, and let it be the challenger; the version."""
        mlflow.set_experiment(trained.model)
        until = trained.until.astimezone(UTC).isoformat()
        with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.log_params({**trained.parameters, "trained_until": until})
            mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in metrics.items()})
            folder = Path(scratch) / _ARTEFACT
            predict.prepare(folder.parent, _ARTEFACT, trained.manifest, dict(trained.arrays))
            mlflow.log_dict(trained.reference, "reference.json")
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=Answers(trained.model),
                artifacts={_ARTEFACT: str(folder)},
                signature=infer_signature(trained.inputs, trained.outputs),
                input_example=trained.inputs,
                pip_requirements=["numpy", "orjson", "pandas"],
                registered_model_name=trained.model,
                tags={
                    "data": json.dumps(trained.data), "until": until, "code": code_version(),
                    "digest": digest(trained.manifest, trained.arrays), "words": trained.words,
                },
            )  # fmt: skip
        version = str(info.registered_model_version)
        for key, value in (info.tags or {}).items():
            self._client.set_model_version_tag(trained.model, version, key, value)
        self._client.set_registered_model_alias(trained.model, CHALLENGER, version)
        return version

    def alias(self, model: str, alias: str) -> str | None:
        """The version that has an alias."""
        try:
            return str(self._client.get_model_version_by_alias(model, alias).version)
        except MlflowException:
            return None

    def read(self, model: str, version: str) -> Version:
        """A version with all that it holds.

        Raises:
            ModelError: there is no such version, or its arrays are not those that were registered.
        """
        try:
            known = self._client.get_model_version(model, version)
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}", dst_path=scratch))
                found = next(folder.glob(f"artifacts/{_ARTEFACT}"))
                manifest, mapped = predict.read(found)
                arrays = {name: array.copy() for name, array in mapped.items()}
            signature = mlflow.models.get_model_info(f"models:/{model}/{version}").signature
            reference = mlflow.artifacts.load_dict(f"runs:/{known.run_id}/reference.json")
        except (MlflowException, StopIteration, predict.PredictError) as error:
            raise ModelError(f"{model} has no version {version} that is whole: {str(error)[:200]}") from None
        if digest(manifest, arrays) != known.tags.get("digest"):
            raise ModelError(f"{model} {version} is not what was registered: its arrays or manifest were changed")
        names = tuple(
            tuple(column.name for column in schema.inputs) if schema else ()
            for schema in ((signature.inputs, signature.outputs) if signature else (None, None))
        )
        return Version(
            model, version, {**manifest, "version": version}, arrays, json.loads(known.tags["data"]),
            datetime.fromisoformat(known.tags["until"]), (names[0], names[1]), reference,
        )  # fmt: skip

    def attach(self, model: str, version: str, name: str, document: dict[str, Any] | str) -> None:
        """Keep a document with a version: an artefact of the run that made it, JSON, or a text as it is.

        Raises:
            ModelError: there is no such version, or MLflow does not take it.
        """
        try:
            run = str(self._client.get_model_version(model, version).run_id)
            if isinstance(document, str):
                self._client.log_text(run, document, name)
            else:
                self._client.log_dict(run, document, name)
        except MlflowException as error:
            raise ModelError(f"{name} is not kept with {model} {version}: {str(error)[:200]}") from None

    def describe(self, model: str, version: str, text: str) -> None:
        """Let a text be a version's description, as far as MLflow has room for it, and whole ``card.md`` of its run.

        Raises:
            ModelError: there is no such version, or MLflow does not take it.
        """
        self.attach(model, version, "card.md", text)
        try:
            self._client.update_model_version(model, version, text[:_DESCRIPTION])
        except MlflowException as error:
            raise ModelError(f"{model} {version} is not described: {str(error)[:200]}") from None

    def about(self, model: str, version: str) -> About:
        """What MLflow has on record of a version.

        Raises:
            ModelError: there is no such version.
        """
        try:
            known = self._client.get_model_version(model, version)
            data = self._client.get_run(str(known.run_id)).data
        except MlflowException as error:
            raise ModelError(f"{model} has no version {version}: {str(error)[:200]}") from None
        made_at = datetime.fromtimestamp(known.creation_timestamp / 1000, UTC)
        return About(known.tags, data.params, data.metrics, made_at)

    # --- who answers ------------------------------------------------------------------------------------------------

    def answering(self, model: str) -> Decision | None:
        """The decision that says which version answers now; None before the first."""
        rows = decisions(self.settings, model)
        return next((row for row in rows if row.action != "refused"), None)

    def decide(
        self,
        model: str,
        version: str,
        action: str,
        who: str,
        why: str,
        reasons: Sequence[str] = (),
        measured: dict[str, Any] | None = None,
        data: Mapping[str, int] | None = None,
    ) -> Decision:
        """Record a decision, and carry it out."""
        with exclusive(self.settings.published / f".{model}.lock"):
            before = self.answering(model)
            if action != "refused":
                held = self.read(model, version)
                predict.prepare(self.settings.published / model, version, held.manifest, dict(held.arrays))
            decision = Decision(
                model, version, action, before.version if before else None, who, why, tuple(reasons), datetime.now(UTC)
            )
            row = {
                **decision.__dict__, "id": uuid.uuid4().hex, "reasons": list(reasons),
                "measured": orjson.dumps(measured or {}).decode(), "data": sorted((data or {}).items()),
            }  # fmt: skip
            batch.append(self.settings, promotions.TABLE, pa.Table.from_pylist([row], schema=promotions.TABLE.arrow))
            self.settle(model)
            return decision

    def settle(self, model: str) -> None:
        """Let alias and published arrays be what ``ops.promotions`` says, whoever or whatever left them otherwise."""
        decision = self.answering(model)
        if decision is None:
            return
        version, folder = decision.version, self.settings.published / model
        if self.alias(model, CHAMPION) != version:
            self._client.set_registered_model_alias(model, CHAMPION, version)
        if self.alias(model, CHALLENGER) == version:
            self._client.delete_registered_model_alias(model, CHALLENGER)
        if predict.current(folder) != version:
            if not (folder / version).exists():
                held = self.read(model, version)
                predict.prepare(folder, version, held.manifest, dict(held.arrays))
            predict.switch(folder, version)


def decisions(settings: Settings, model: str) -> list[Decision]:
    """All decisions about a model, the newest first."""
    rows = (
        Lake(settings)
        .query(
            "select model, version, action, previous, who, why, reasons, decided_at from ops.promotions "
            "where model = ? order by decided_at desc",
            [model],
        )
        .fetchall()
    )
    return [
        Decision(model, version, action, previous, who, why, tuple(reasons or ()), at)
        for model, version, action, previous, who, why, reasons, at in rows
    ]
