"""The rule that a user writes: an SQL predicate over the columns of single rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.command_line.optional_packages import require
from pipelines.curation.rules import Rule, mask


class PredicateError(ValueError):
    """What was given as `where` is no predicate over the columns."""


def sql_rule(predicate: str, schema: pa.Schema) -> Rule:
    """Makes a rule of an SQL predicate, which DuckDB evaluates; it reaches no file and no network.

    Raises:
        PredicateError: if it is not one predicate over the columns of single rows of `schema`.
        MissingExtraError: if DuckDB is not installed.
    """
    evaluate = _Sql(predicate)
    columns = evaluate.columns(schema)
    # Of no rows an aggregate makes one.
    evaluate(pa.schema([schema.field(name) for name in columns]).empty_table())
    return Rule(f"where {predicate}", columns, evaluate)


# How deep operators, functions and parentheses may be nested, as DuckDB counts them. It would take
# 1000, but then Python could not read the syntax tree, or could, as its release will have it.
MAX_DEPTH = 100
_TOO_DEEP = "Max expression depth"  # how DuckDB begins to say so
# Batches are evaluated one by one, so what looks beyond a row would depend on where they end.
_NOT_OF_ONE_ROW = {
    "WINDOW": "a window function",
    "SUBQUERY": "a subquery",
    "STAR": "a star",
    "POSITIONAL_REFERENCE": "a column by its number",
}
_CHANGING = """
SELECT function_name FROM duckdb_functions() WHERE list_contains(?, function_name)
GROUP BY function_name HAVING bool_and(stability <> 'CONSISTENT') ORDER BY function_name
"""


class _Sql:
    """Evaluates a predicate over batches; each process opens a database of its own."""

    def __init__(self, predicate: str) -> None:
        self._predicate = predicate

    def __reduce__(self) -> tuple[type[_Sql], tuple[str]]:
        return _Sql, (self._predicate,)

    @cached_property
    def _duckdb(self) -> ModuleType:
        return require("duckdb", "`where`", extra="filter")

    @cached_property
    def _database(self) -> Any:
        config = {"enable_external_access": "false", "lock_configuration": "true", "threads": "1"}
        return self._duckdb.connect(config=config | {"max_expression_depth": str(MAX_DEPTH)})

    def columns(self, schema: pa.Schema) -> tuple[str, ...]:
        """Returns the columns it needs.

        Raises:
            PredicateError: if it is no expression, names others, or looks at more than one row.
        """
        nodes = self._parse()
        self._check_nodes(nodes)
        self._check_names(nodes, schema)
        # `text.lower()` has the column as the function's schema.
        found = _names(nodes) | {node.get(key) for node in nodes for key in ("schema", "catalog")}
        folded = {name.lower() for name in found if name}
        columns = tuple(name for name in schema.names if name.lower() in folded)
        if not columns:
            raise self._names("no column", schema)
        self._check_columns(columns, schema)
        return columns

    def __call__(self, rows: pa.Table | pa.RecordBatch) -> np.ndarray:
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        try:
            self._database.register("rows", _readable(table))
            # The line break ends a comment.
            query = f"SELECT ({self._predicate}\n) AS keep FROM rows"
            found = self._database.sql(query).to_arrow_table().column(0)
        except self._duckdb.Error as error:
            raise self._refused(str(error)) from error
        if len(found) != len(table):
            raise self._refused("it does not give one value for each row")
        if not pa.types.is_boolean(found.type):
            raise self._refused(f"it gives {found.type}, not bool")
        return mask(found)

    def _parse(self) -> list[dict[str, Any]]:
        """Returns the nodes of the syntax tree.

        What is no expression, `a) or (b` or `a FROM b`, fails without parentheses or within them.
        """
        for query in (f"SELECT ({self._predicate}\n)", f"SELECT {self._predicate}"):
            tree = self._tree(query)
            if tree["error"]:
                raise self._refused(tree["error_message"])
        return list(_nodes(tree))

    def _tree(self, query: str) -> dict[str, Any]:
        call = "SELECT json_serialize_sql(CAST(? AS VARCHAR))"
        try:
            [[text]] = self._database.execute(call, [query]).fetchall()
            return json.loads(text)
        except self._duckdb.Error as error:
            raise self._refused(str(error)) from error

    def _check_nodes(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        for what in (_NOT_OF_ONE_ROW.get(node.get("class", "")) for node in nodes):
            if what:
                raise self._refused(f"it has {what}, but may look at one row alone")
        functions = [node["function_name"] for node in nodes if "function_name" in node]
        changing = self._database.execute(_CHANGING, [functions]).fetchall()
        if changing:
            raise self._refused(f"{changing[0][0]}() does not give the same each time")

    def _check_names(self, nodes: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        """Refuses what DuckDB takes for a value where no column has its name: `current_date`."""
        variables = _names(_nodes([node["lhs"] for node in nodes if node.get("class") == "LAMBDA"]))
        known = {name.lower() for name in (*schema.names, *variables, "rows")}
        firsts = (node["column_names"][0] for node in nodes if "column_names" in node)
        unknown = next((name for name in firsts if name.lower() not in known), None)
        if unknown is not None:
            raise self._names(f"{unknown!r}, which is no column", schema)

    def _check_columns(self, columns: Sequence[str], schema: pa.Schema) -> None:
        for name in columns:
            alike = [other for other in schema.names if other.lower() == name.lower()]
            if len(alike) > 1:
                raise self._refused(f"{' and '.join(map(repr, alike))} are one name in SQL")
            try:
                empty = pa.schema([schema.field(name)]).empty_table()
                self._database.from_arrow(_readable(empty))
            except self._duckdb.Error as error:
                reason = f"DuckDB cannot read column {name!r}, a {schema.field(name).type}"
                raise self._refused(reason) from error

    def _names(self, what: str, schema: pa.Schema) -> PredicateError:
        return PredicateError(
            f"`where` {self._predicate!r} names {what}; there are {', '.join(schema.names)}"
        )

    def _refused(self, reason: str) -> PredicateError:
        if _TOO_DEEP in reason:
            reason = f"it is nested more than {MAX_DEPTH} deep; write it with fewer levels"
        return PredicateError(
            f"expected `where` to be an SQL predicate over the columns, got {self._predicate!r}: "
            + reason.split("\n", 1)[0]
        )


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yields all objects of a JSON value."""
    waiting = [tree]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _names(nodes: Iterable[Mapping[str, Any]]) -> set[str]:
    return {name for node in nodes for name in node.get("column_names", [])}


def _readable(table: pa.Table) -> pa.Table:
    return pa.table([_widened(column) for column in table.columns], table.column_names)


def _widened(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Makes float32 of float16, which DuckDB does not read."""
    kind = column.type
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type):
        return column.cast(pa.list_(pa.float32(), kind.list_size))
    return column
