"""``python -m lq.bench.ours SCENARIO …``: one run of this queue."""

from lq.bench.adapter import serve
from lq.bench.ours import latency, throughput

if __name__ == "__main__":
    serve(
        {
            "enqueue": throughput.one_by_one,
            "bulk": throughput.bulk,
            "drain": throughput.noop,
            "sleep": throughput.sleep,
            "cpu": throughput.compute,
            "pickup": latency.pickup,
            "loaded_pickup": latency.loaded_pickup,
            "beside": latency.beside,
            "enqueuers": throughput.eight,
            "large": throughput.large,
            "memory": latency.memory,
            "idle": latency.idle,
            "depth": throughput.depth,
            "replacement": latency.replacement,
            "events": throughput.events,
        }
    )
