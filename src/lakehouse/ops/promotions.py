"""ops.promotions: which version of a model answers since when, who decided so, and why; refusals too."""

from lakehouse.tables import Table, columns

TABLE = Table(
    "ops.promotions",
    columns(
        "id string, model string, version string, action string, previous string, who string, why string, "
        "reasons array<string>, measured string, data map<string,bigint>, decided_at timestamp"
    ),
    key=("id",),
    order=("decided_at",),
)
"""``action`` is ``promoted``, ``rolled back`` or ``refused``, ``previous`` the version that answered until then,
``reasons`` the gate's, ``measured`` its figures (JSON), ``data`` the Delta versions that the model was trained on. The
newest row of a model that is no refusal says which version answers, and the rows which one did at any time."""
