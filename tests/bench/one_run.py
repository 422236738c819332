"""One job in a process of its own: JSON of the job as argument, JSON of the measurement on standard output."""

from __future__ import annotations

import json
import sys

from cases import Job, measure

if __name__ == "__main__":
    print(json.dumps(measure(Job(**json.loads(sys.argv[1])))))
