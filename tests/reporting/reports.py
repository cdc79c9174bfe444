"""Two reports: with what must be there, and with everything."""

BARE = {
    "model": "resnet18",
    "student": {"model": "resnet34", "top1": 94.25, "top1_at": {"1": 80.0, "2": 94.25}},
    "dataset": "cifar10",
    "timesteps": 2,
    "method": "hybrid",
    "neuron": "lif",
    "seed": 20251123,
    "versions": {"torch": "2.9.0"},
    "device": "cuda",
}
FULL = {
    **BARE,
    "teacher": {"top1": 95.5, "source": "trained on cifar10"},
    "drop": 1.25,
    "branches": [{"name": "layer1", "top1": 93.0, "cosine": 0.87654}],
    "coverage": {"spiking_macs": 900, "total_macs": 1000, "share": 0.9},
    "energy": {"ann_mj": 2.0, "snn_mj": 0.5, "constants": {"multiply-accumulate": 4.6, "accumulate": 0.9}},
    "training": {"epochs": 90, "images_per_second": 12345.6, "seconds": 336.5, "peak_memory_mib": 5120},
    "warnings": ["max pooling on spikes is kept"],
    "layers": [
        {
            "name": "a|b",
            "role": "synapse",
            "firing_rate": 0.125,
            "binary_input": True,
            "macs": 7654321,
            "synops": 9.0,
        }
    ],
}
