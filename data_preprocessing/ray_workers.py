"""Workers on a Ray cluster, whose machines see the same disk. Ray itself is an optional extra."""

from collections.abc import Iterable, Iterator
from typing import Any

from data_preprocessing.chunks import Chunk
from data_preprocessing.encoder import ChunkEncoder, Outcome
from data_preprocessing.workers import died, one_thread
from modelzoo.base_config import UserError


class _RemoteEncoder:
    """What an actor holds."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        one_thread()
        encoder.tokenizer.prepare()
        self._encoder = encoder

    def encode(self, chunk: Chunk) -> Outcome:
        return self._encoder(chunk)


def encode_in_ray(encoder: ChunkEncoder, chunks: Iterable[Chunk], workers: int | None) -> Iterator[Outcome]:
    """Outcomes in the order in which they come, from the cluster of RAY_ADDRESS, or one started here.

    `workers` None: one for each CPU of the cluster. Raises UserError: Ray is not installed; a worker died.
    """
    try:
        import ray
    except ImportError:
        raise UserError("executor=ray: the package ray is not installed; pip install 'modelzoo[ray]'") from None
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        held = ray.put(encoder)
        actor = ray.remote(num_cpus=1)(_RemoteEncoder)
        idle = [actor.remote(held) for _ in range(count)]
        yield from _share_out(ray, idle, iter(chunks))
    finally:
        if started_here:
            ray.shutdown()


def _share_out(ray: Any, idle: list[Any], chunks: Iterator[Chunk]) -> Iterator[Outcome]:
    busy: dict[Any, tuple[Any, Chunk]] = {}
    ended = False
    while busy or not ended:
        while idle and not ended:
            chunk = next(chunks, None)
            if chunk is None:
                ended = True
            else:
                worker = idle.pop()
                busy[worker.encode.remote(chunk)] = (worker, chunk._replace(items=(chunk.items[0], chunk.items[-1])))
        for done in ray.wait(list(busy))[0] if busy else ():
            worker, chunk = busy.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayActorError as error:
                raise died(chunk, str(error).splitlines()[0]) from None
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            idle.append(worker)
