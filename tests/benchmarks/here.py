"""Settings held by a thread of this process, which starts faster than a process of its own."""

import json
import queue
import threading

from benchmarks import worker
from benchmarks.repositories import REPOSITORIES
from benchmarks.turns import Failed, Worker


class Here(Worker):
    """As `Worker`, with the same requests and answers."""

    def __init__(self, spec):
        self._requests, self._answers = queue.Queue(), queue.Queue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        try:
            self.built = self._ask(spec)
        except Failed:
            self.close()
            raise

    def _serve(self):
        try:
            worker.serve(iter(self._requests.get, ""), self._answers.put)
        except Exception as error:
            self._answers.put({"error": f"{type(error).__name__}: {error}"})

    def _ask(self, request):
        self._requests.put(json.dumps(request))
        answer = json.loads(json.dumps(self._answers.get()))
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self):
        self._requests.put("")
        self._thread.join()


def ours_here(spec):
    """What is ours in this process; the authors' code needs one of its own."""
    return (Worker if spec["source"] == "reference" else Here)(spec)


def checkout_of(method, folder, files):
    """A checkout of a method's authors' code, of files by their names."""
    repository = REPOSITORIES[method]
    for name in {*repository.files, *files}:
        path = folder / repository.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.get(name, "def make_encoder(): pass"))
    assert repository.missing(folder) is None
    return folder
