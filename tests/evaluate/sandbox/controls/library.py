# Uses temporary files, threads and a pool of threads.
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def solve(numbers):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers.json"
        writer = threading.Thread(target=lambda: path.write_text(json.dumps(numbers)))
        writer.start()
        writer.join()
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda number: number**2 * (number % 2 == 0), json.loads(path.read_text())))
