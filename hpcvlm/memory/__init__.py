"""Does a model fit: weights, KV cache, encoder and the rest, in bytes per GPU. Pure.

The way through: `model_config.read_model` makes a `ModelShape` of a repository's config.json,
`gpus.find_gpu` a `GpuSpec` of a GPU's name, `estimate.estimate` a `MemoryEstimate` of both, and
`advice.advise` says what would make it fit.
"""
