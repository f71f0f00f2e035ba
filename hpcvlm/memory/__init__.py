"""Does a model fit: weights, KV cache, encoder and the rest, in bytes per GPU. Pure.

- `model_config.read_model`: a repository's config.json becomes a `shapes.ModelShape`;
  `trim.trimmed` cuts such a file down to what is read.
- `checkpoint.index_bytes`, `checkpoint.header_bytes`: bytes of the weights.
- `gpus.find_gpu`: the types that a GPU's name can mean, with the memory that an engine sees.
- `estimate.estimate`: what a start takes, line by line; whether it fits; the longest context.
- `advice.advise`, `advice.fewest_gpus`: what would make it fit.
- `images.most_tokens`, `images.tokens_of`: tokens of a picture.
- `kv_cache.plan_cache`: the KV cache alone, to the token as vLLM's log prints it.
"""
