"""The command line of `clip-beam`, with slots that write down which units they begin."""

import json
import os
import sys
import time
from dataclasses import dataclass

from pipelines import cli
from pipelines.command_line import exits
from pipelines.runs import on_slots

LOG = "CHAOS_LOG"


@dataclass(frozen=True, eq=False)
class LoggedUnits(on_slots.EmbedUnits):
    """The work of a slot; the environment of the launcher says where the log is."""

    log: str = os.environ.get(LOG, os.devnull)

    def load(self) -> None:
        begun = on_slots.DeskUnits.begun

        def noted(units, unit):
            with open(self.log, "a") as log:
                log.write(json.dumps([time.time(), os.getpid(), unit.unit_id]) + "\n")
            begun(units, unit)

        on_slots.DeskUnits.begun = noted
        super().load()


if __name__ == "__main__":
    import chaos_program  # by its name, so that slots find it

    on_slots.EmbedUnits = chaos_program.LoggedUnits
    sys.argv[:1] = ["clip-beam"]
    exits.run(cli.main)
