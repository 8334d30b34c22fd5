"""Airflow DAGs of conf/schedule.yaml, for those who have Airflow: one DAG a job, instead of `lakehouse schedule`.

Put this file into the DAGs folder; ``LAKEHOUSE_PROJECT`` names the checkout, whose ``.venv`` the workers run.
It wants Airflow 3. Nothing here imports ``lakehouse``: Airflow has its own environment.
"""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pendulum
import yaml
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = Path(os.environ.get("LAKEHOUSE_PROJECT", Path(__file__).resolve().parents[2]))
JOBS = yaml.safe_load((PROJECT / "conf" / "schedule.yaml").read_text())["jobs"]

for name, job in JOBS.items():
    with DAG(
        dag_id=f"lakehouse-{name}",
        schedule=job["cron"] if "cron" in job else pendulum.parse(job["every"]),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["lakehouse"],
    ) as dag:
        BashOperator(
            task_id="run",
            bash_command=shlex.join([str(PROJECT / ".venv" / "bin" / "lakehouse"), *job["run"]]),
            append_env=True,
            retries=job.get("retries", 2),
            retry_delay=pendulum.parse(job.get("pause", "PT30S")),
            retry_exponential_backoff=True,
            execution_timeout=pendulum.parse(job.get("timeout", "PT10M")),
        )
    globals()[f"lakehouse_{name.replace('-', '_')}"] = dag
