"""A guest at work, whose operations are timed one by one while something else goes on."""

import contextlib
import os
import random
import statistics
import threading
import time

from .harness import BLOCK


class Client:
    """Opens, reads and writes files of its own for as long as it is told to; microseconds by kind."""

    def __init__(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.files = []
        for number in range(200):
            path = directory / f"known{number}"
            path.write_bytes(os.urandom(64 * 1024))
            self.files.append(path)

    def measure(self, is_over):
        """What each operation took, with the time when it began."""
        chance = random.Random(7)
        clock = time.perf_counter_ns
        found = []
        while not is_over():
            path = chance.choice(self.files)
            at = time.monotonic()
            begun = clock()
            file = os.open(path, os.O_RDWR)
            opened = clock()
            os.pread(file, BLOCK, chance.randrange(15) * BLOCK)
            did_read = clock()
            os.pwrite(file, b"x" * BLOCK, chance.randrange(15) * BLOCK)
            written = clock()
            os.close(file)
            found.append((at, opened - begun, did_read - opened, written - did_read))
        return found

    @contextlib.contextmanager
    def at_work(self):
        """Works meanwhile; what is yielded has everything when that is over."""
        over, found = threading.Event(), []
        worker = threading.Thread(target=lambda: found.extend(self.measure(over.is_set)))
        worker.start()
        try:
            yield found
        finally:
            over.set()
            worker.join()


def p99(found, begin, end):
    """Microseconds, of the operations that began in a window."""
    some = [times for at, *times in found if begin <= at <= end]
    return {kind: statistics.quantiles(values, n=100)[98] / 1000
            for kind, values in zip(["open", "read", "write"], zip(*some))}
