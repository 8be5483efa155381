"""`clip-beam probe`: a head trained on labels of the images of a run, as safetensors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipelines.command_line import exits
from pipelines.command_line.meter import meter
from pipelines.command_line.model_flags import add_model_name_flag
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import place, readable_place
from pipelines.output.scored_tables import ScoredTables, check_columns
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag, open_whole
from pipelines.queries.probing import KINDS, LOGISTIC, gather, train, write_probe
from pipelines.queries.true_classes import read_truth
from pipelines.storage import listing, uris
from pipelines.storage.redaction import redact

ENDING = ".safetensors"


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    try:
        tables = _checked_tables(options)
        truth = read_truth(options.truth, options.truth_column) if options.truth else None
    except (ValueError, OSError) as error:
        return exits.fail("probe", str(error), exits.status_before(error))
    try:
        with meter(tables.rows_of(tables.embeddings), "rows") as count:
            column, kind, seed = options.truth_column, options.kind, options.seed
            labelled = gather(tables, column, truth, kind, seed, count)
        probe = train(labelled)
        about = {"truth_column": options.truth_column, "kind": options.kind, "seed": options.seed}
        write_probe(uris.normalize(options.output), probe, labelled, tables, about)
    except (ValueError, OSError) as error:
        return exits.fail("probe", str(error), exits.status_of(error))
    trained, validation, test = ((labelled.parts == part).sum() for part in range(3))
    print(f"rows       {len(labelled.parts)} with a label, {labelled.without_label} without")
    print(f"split      {trained} to train, {validation} to validate, {test} held out")
    print(f"classes    {len(labelled.labels)}" if labelled.labels else "target     numbers")
    print(f"C          {probe.c:.4g}, chosen by the validation rows")
    name = "accuracy" if labelled.labels else "R2"
    print(f"{name:<10} {probe.score:.4f} on the rows held out")
    print(f"output     {redact(options.output)}")
    return 0


def parser() -> Parser:
    """Builds the command line of `clip-beam probe`."""
    flags = Parser(
        prog="clip-beam probe",
        description="Train a linear head on labels of the images of a run, for `clip-beam heads`.",
    )
    add_input_flag(group(flags, "input"))
    add_incomplete_flag(group(flags, "input"))
    add_model_name_flag(flags)
    add = group(flags, "labels").add_argument
    add(
        "--truth_column",
        required=True,
        metavar="NAME",
        help="column of the label: of the run, or of the file in --truth",
    )
    add("--truth", type=readable_place, metavar="URI", help="file with `uid` and the label")
    add(
        "--kind",
        choices=KINDS,
        default=LOGISTIC,
        help=f"logistic regression for classes, ridge regression for numbers [{LOGISTIC}]",
    )
    add("--seed", type=int, default=0, metavar="N", help="decides which images are held out [0]")
    add = group(flags, "output").add_argument
    add("--output", required=True, type=place, metavar="URI", help=f"{ENDING} file to write")
    add("--overwrite", action="store_true", help="replace the file that is there")
    return flags


def _checked_tables(options: argparse.Namespace) -> ScoredTables:
    if not options.output.endswith(ENDING):
        raise ValueError(f"expected a name in {ENDING} as `--output`, got {options.output!r}")
    if listing.exists(options.output) and not options.overwrite:
        raise ValueError(f"{options.output} is there already; pass `--overwrite` or name another")
    tables = open_whole(options.input, options.allow_incomplete).of_model(options.model_name)
    columns = [tables.column("image_embedding")]
    columns += [] if options.truth else [options.truth_column]
    check_columns(tables.schema, columns, tables.embeddings[0])
    return tables


if __name__ == "__main__":
    exits.run(main)
