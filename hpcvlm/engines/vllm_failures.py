"""Why a start failed: vLLM's, Apptainer's and Slurm's words, and what to do about them.

One table, ordered: what ends an engine from outside comes before what the engine says of itself,
and a particular cause before a general one. Wordings by version: vLLM's release archives 0.9.1 to
0.33.0 and the failing starts kept in tests/data/logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hpcvlm.engines.vllm_log import distinct, statements, telling_lines

UNKNOWN = "unknown"

_MOST_EVIDENCE = 3
_LONGEST_VALUE = 160


@dataclass(frozen=True, slots=True)
class Signature:
    """A known failure: how it reads in the log, what it means, what helps.

    Attributes:
        id: stable identifier.
        pattern: matches the message, whatever stands before it in the line.
        cause: one sentence; may name the pattern's groups as ``{group}``.
        remedy: what to type or change; likewise.
    """

    id: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an engine ended, as far as its logs tell.

    Attributes:
        id: the signature's identifier, or ``unknown``.
        cause: what went wrong, one line.
        remedy: what to do about it, one line; empty when the cause is unknown.
        evidence: the log's own lines that say so.
    """

    id: str
    cause: str
    remedy: str
    evidence: tuple[str, ...]


def diagnose(stdout: str, stderr: str) -> Diagnosis:
    """Why the engine ended.

    Args:
        stdout: the engine's standard output.
        stderr: its standard error, and the job's.
    """
    ordered = sorted(statements(stdout, stderr), key=lambda each: each.weight)
    said = list(dict.fromkeys(each.text for each in ordered))
    for signature in SIGNATURES:
        found = [(text, match) for text in said if (match := signature.pattern.search(text))]
        if found:
            values = {name: _value(value) for name, value in found[0][1].groupdict().items()}
            return Diagnosis(
                signature.id,
                _sentence(signature.cause, values),
                _sentence(signature.remedy, values),
                tuple(distinct((text for text, _ in found), _MOST_EVIDENCE)),
            )
    return Diagnosis(
        UNKNOWN,
        "the cause is unknown; the engine's last telling lines follow",
        "",
        tuple(telling_lines(stdout, stderr)),
    )


def _sentence(template: str, values: Mapping[str, str]) -> str:
    """The template filled in; what the log did not name leaves no gap."""
    return template.format_map(values).rstrip(" :")


def _value(text: str | None) -> str:
    """A group as it may stand in a sentence."""
    clean = " ".join((text or "").split()).rstrip(".,;:")
    return clean if len(clean) <= _LONGEST_VALUE else clean[: _LONGEST_VALUE - 1].rstrip() + "…"


def _sign(name: str, pattern: str, cause: str, remedy: str) -> Signature:
    return Signature(name, re.compile(pattern), cause, remedy)


_SCHEDULER = (
    _sign(
        "out-of-memory",
        r"oom[-_ ]?kill|srun: error: .*Out Of Memory|(?i:memory cgroup out of memory)",
        "the job used more main memory than it was given, and was killed",
        "give it more: memory_per_gpu in the site's file; or more GPUs (--gpus TYPE:N), which "
        "bring their share",
    ),
    _sign(
        "time-limit",
        r"CANCELLED .*DUE TO TIME LIMIT",
        "the job reached its time limit",
        "launch with a longer one: --time 4h",
    ),
    _sign(
        "preempted",
        r"CANCELLED .*DUE TO PREEMPTION",
        "Slurm took the node back for a job that goes first",
        "launch again, or with another --qos or --partition",
    ),
    _sign(
        "node-failed",
        r"CANCELLED .*DUE TO NODE FAIL",
        "the node failed under the job",
        "launch again; Slurm avoids a node that is down",
    ),
)

_CONTAINER = (
    _sign(
        "image-architecture",
        r"the image's architecture \((?P<image>[^)]+)\) could not run on the host's "
        r"\((?P<host>[^)]+)\)",
        "the container image is built for {image}, the node is {host}",
        "build or pull the image on a node of that kind and name it under `engines` in the "
        "site's file",
    ),
    _sign(
        "image-missing",
        r"could not open image (?P<image>[^\s:]+(?::[^\s:]+)*): .*no such file",
        "the container image {image} is not there on the node",
        "put it there, or correct `engines` or `image_folder` in the site's file",
    ),
    _sign(
        "image-unreadable",
        r"could not open image (?P<image>[^\s:]+(?::[^\s:]+)*)(?:: (?P<words>.*))?",
        "the container image {image} cannot be opened: {words}",
        "build or copy it again; a cut-off copy reads like this",
    ),
    _sign(
        "bind-source-missing",
        r"mount source (?P<source>\S+) doesn't exist",
        "the folder {source}, which is bound into the container, does not exist on the node",
        "create it, or correct `binds` in the site's file",
    ),
    _sign(
        "bind-target-missing",
        r"destination (?P<target>\S+) doesn't exist in container",
        "the container has no {target} to bind a folder to, and Apptainer may not make one here",
        "bind to a folder that the image has (source:target under `binds` in the site's file)",
    ),
    _sign(
        "command-missing",
        r'"(?P<command>[^"]+)": executable file not found'
        r"|No module named '?(?P<module>vllm)(?:'|$)",
        "the engine's command is not in the image or on the node: {command}{module}",
        "correct `command` under `engines` in the site's file, or load what brings it (`modules`)",
    ),
    _sign(
        "libc-too-old",
        r"GLIBC_(?P<version>[\d.]+)' not found",
        "a library of the node, bound into the container, needs a newer C library (GLIBC "
        "{version}) than the image has",
        "use an image with a newer base system, and bind no system folders (`binds` in the "
        "site's file)",
    ),
)

_STORAGE = (
    _sign(
        "shared-memory-full",
        r"No space left on device.*shm|/dev/shm.*No space left on device|Bus error",
        "the node's shared memory (/dev/shm) is full",
        "use fewer GPUs on this node, or ask the site for a larger /dev/shm",
    ),
    _sign(
        "disk-full",
        r"[Qq]uota exceeded|No space left on device|Not enough free disk space",
        "a disk is full or its quota is used up where the engine writes its caches",
        "free some space, or set `cache_root` in the site's file to a folder that has room",
    ),
    _sign(
        "read-only",
        r"Read-only file system(?:: '(?P<path>[^']+)')?",
        "the engine wants to write where it may not: {path}",
        "set `cache_root` in the site's file to a writable folder, or bind one over it (`binds`)",
    ),
)

_GPU = (
    _sign(
        "gpu-out-of-memory",
        r"(?:CUDA|HIP) out of memory|(?:CUDA|HIP) error: out of memory|OutOfMemoryError",
        "the GPU's memory is full: weights and working memory do not fit",
        "more GPUs (--gpus TYPE:N), or less to hold: --set max-num-seqs=8, --set "
        "max-model-len=8192, --set enforce-eager=true",
    ),
    _sign(
        "gpu-in-use",
        r"Free memory on device.*?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less "
        r"than desired GPU memory utilization \((?P<share>[\d.]+)",
        "only {free} of {total} GiB of the GPU are free, less than the share of {share} that the "
        "engine asks for: another process holds the rest",
        "a share below {free}/{total} (--set gpu-memory-utilization=SHARE), or a node with a "
        "free GPU",
    ),
    _sign(
        "gpu-shared",
        r"Error in memory profiling\. Initial free memory",
        "another process on the same GPU gave memory back while the engine measured it",
        "launch again, on a GPU that nobody else uses",
    ),
    _sign(
        "driver-mismatch",
        r"Error 803|unsupported display driver / cuda driver combination",
        "the image's own CUDA driver library hides the node's",
        "set PREPEND_LD_LIBRARY_PATH: /.singularity.d/libs in the engine's `environment` in the "
        "site's file",
    ),
    _sign(
        "driver-too-old",
        r"NVIDIA driver on your system is too old|compiled with an unsupported toolchain"
        r"|CUDA driver version is insufficient",
        "the node's NVIDIA driver is too old for the CUDA that the engine is built with",
        "an engine with an older CUDA (`engines` in the site's file), or nodes with a newer "
        "driver (--partition, --constraint)",
    ),
    _sign(
        "gpu-unsupported",
        r"no kernel image is available for execution on the device",
        "the engine is not built for this kind of GPU",
        "another GPU type (--gpus TYPE:N), or an engine version that still supports this one",
    ),
    _sign(
        "bfloat16-unsupported",
        r"Bfloat16 is only supported on GPUs with compute capability of at least [\d.]+\d"
        r"(?:\. Your (?P<gpu>.+?) GPU has compute capability)?",
        "this GPU cannot compute in bfloat16, which the model asks for: {gpu}",
        "--set dtype=half, or a newer GPU type (--gpus TYPE:N)",
    ),
    _sign(
        "quantization-unsupported",
        r"quantization method (?P<method>\S+) is not supported for the current GPU",
        "this GPU cannot run the model's {method} quantization",
        "a newer GPU type (--gpus TYPE:N), or a variant of the model with another quantization",
    ),
    _sign(
        "no-gpu",
        r"Failed to infer device type|Device string must not be empty|No CUDA GPUs are available"
        r"|libcuda\.so\.1: cannot open shared object|Found no NVIDIA driver"
        r"|no CUDA-capable device is detected|Could not find any nv files",
        "the engine sees no GPU: the job has none, or the container was started without --nv",
        "ask for one (--gpus TYPE:N), and set gpu_flag: --nv in the site's file",
    ),
    _sign(
        "too-few-gpus",
        r"(?:[Ww]orld[ _]size|[Tt]ensor parallel size|local_world_size) \((?P<size>\d+)\) "
        r".{0,80}?(?:GPUs|devices|gpu count) \((?P<gpus>\d+)\)",
        "the model is to be spread over {size} GPUs, and the job has {gpus}",
        "--gpus TYPE:{size}; and no parallel size under --set or --engine-arg: it follows --gpus",
    ),
    _sign(
        "parallel-size",
        r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel "
        r"size \((?P<size>\d+)\)",
        "the model's {heads} attention heads cannot be shared out to {size} GPUs",
        "a number of GPUs that divides {heads}: --gpus TYPE:N",
    ),
    _sign(
        "parallel-size",
        r"AssertionError: (?P<whole>\d+) is not divisible by (?P<size>\d+)"
        r"|too large tensor parallel size",
        "the model's weights cannot be shared out evenly to this many GPUs",
        "fewer GPUs: --gpus TYPE:N with half of N",
    ),
    _sign(
        "nccl",
        r"NCCL [Ee]rror|nccl(?:System|UnhandledCuda|Internal|Remote|InvalidUsage)Error",
        "the job's GPUs could not reach one another (NCCL)",
        "set NCCL_DEBUG: INFO in the site's `environment`, launch again, and read hpcvlm logs; "
        "one GPU (--gpus TYPE:1) needs no NCCL",
    ),
    _sign(
        "hostname",
        r"Gloo connectFullMesh failed|Unable to resolve hostname to a \(local\) address",
        "the node's name leads to an address at which its processes do not find one another",
        "set GLOO_SOCKET_IFNAME to the node's network interface, or VLLM_HOST_IP to its address, "
        "in the site's `environment`",
    ),
    _sign(
        "ray",
        r"No available node types can fulfill resource request",
        "Ray does not find the GPUs that the engine asks for",
        "leave --distributed-executor-backend out: on one node the engine needs no Ray",
    ),
    _sign(
        "numa-nodes",
        r"Not enough allowed NUMA nodes to bind threads of (?P<workers>\d+) local CPUWorkers",
        "vLLM for CPUs wants a NUMA node for each of its {workers} workers, and has fewer",
        "a parallel size no larger than the number of NUMA nodes: --gpus 1",
    ),
)

_CONTEXT = (
    _sign(
        "kv-cache-too-small",
        r"max seq len \((?P<asked>\d+)\).*estimated maximum model length is (?P<length>[1-9]\d*)",
        "the memory left for the KV cache holds {length} tokens, and the model's context is "
        "{asked}",
        "--set max-model-len={length}, or more memory: --set gpu-memory-utilization=0.95, more "
        "GPUs (--gpus TYPE:N)",
    ),
    _sign(
        "kv-cache-too-small",
        r"max seq len \((?P<asked>\d+)\) is larger than the maximum number of tokens that can be "
        r"stored in KV cache \((?P<length>\d+)\)",
        "the memory left for the KV cache holds {length} tokens, and the model's context is "
        "{asked}",
        "--set max-model-len={length}, or more memory: --set gpu-memory-utilization=0.95, more "
        "GPUs (--gpus TYPE:N)",
    ),
    _sign(
        "kv-cache-too-small",
        r"To serve at least one request with the models?'s max seq len \((?P<asked>\d+)\), "
        r"\((?P<needed>[\d.]+) GiB KV cache is needed.*?memory \((?P<free>[\d.]+) GiB\)",
        "a context of {asked} tokens needs {needed} GiB of KV cache, and {free} GiB are left",
        "a shorter context (--set max-model-len=N), --set gpu-memory-utilization=0.95, or more "
        "GPUs (--gpus TYPE:N)",
    ),
    _sign(
        "kv-cache-none",
        r"No available memory for the cache blocks",
        "weights and working memory leave nothing for the KV cache",
        "more GPUs (--gpus TYPE:N), --set gpu-memory-utilization=0.95, or --set enforce-eager=true",
    ),
    _sign(
        "kv-cache-over-memory",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/[\d.]+ GiB\) on kv cache allocation is "
        r"less than requested memory for kv \((?P<asked>[\d.]+) GiB\)",
        "a KV cache of {asked} GiB is asked for, and {free} GiB of main memory are free",
        "a smaller one: --set kv-cache-memory-bytes=N, or VLLM_CPU_KVCACHE_SPACE in the model's "
        "`environment`",
    ),
    _sign(
        "memory-in-use",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is "
        r"less than desired CPU memory utilization \((?P<share>[\d.]+)",
        "only {free} of {total} GiB of main memory are free, less than the share of {share} that "
        "the engine asks for",
        "a smaller share: --set gpu-memory-utilization=0.4 (it counts for main memory, too)",
    ),
    _sign(
        "context-too-long",
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived "
        r"max_model_len \(max_position_embeddings=(?P<longest>\d+)",
        "the model takes {longest} tokens at most, and max-model-len asks for {asked}",
        "--set max-model-len={longest}",
    ),
    _sign(
        "context-too-long",
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived",
        "max-model-len asks for {asked} tokens, more than the model takes",
        "a smaller one: --set max-model-len=N",
    ),
    _sign(
        "engine-timeout",
        r"Timed out waiting for engine(?: core processe)?s to (?:start|send initial)",
        "the engine did not finish loading in the time it gives itself",
        "--set start_timeout=60m; weights on a disk near the node load faster",
    ),
)

_ARGUMENTS = (
    _sign(
        "argument-unknown",
        r"error: unrecognized arguments: (?P<arguments>.+)",
        "this version of vLLM does not know {arguments}",
        "correct it where it is said: --set, --engine-arg or the model's file; hpcvlm render "
        "shows the whole command",
    ),
    _sign(
        "argument-not-json",
        r"error: argument (?P<option>\S+): Value (?P<value>.+?) cannot be converted to",
        "{option} takes JSON, and got {value}",
        "write JSON where it is said: --set, --engine-arg or the model's file",
    ),
    _sign(
        "argument-invalid",
        r"^(?!srun|slurmstepd)[\w. ]+: error: (?:argument )?(?P<problem>\S+: .+|ambiguous option.+"
        r"|the following arguments are required.+)",
        "vLLM refuses an argument, {problem}",
        "correct it where it is said: --set, --engine-arg or the model's file; hpcvlm render "
        "shows the whole command",
    ),
    _sign(
        "tool-parser-missing",
        r"--enable-auto-tool-choice requires --tool-call-parser",
        "enable-auto-tool-choice is set without a tool call parser",
        "name the model's parser, such as --set tool-call-parser=hermes",
    ),
    _sign(
        "tool-parser-unknown",
        r"invalid (?P<kind>tool call|reasoning) parser: (?P<parser>\S+)",
        "this version of vLLM has no {kind} parser {parser}",
        "one of those in the line below, or a newer engine",
    ),
    _sign(
        "chat-template-missing",
        r"chat template string \((?P<path>.+?)\) appears path-like, but doesn't exist",
        "the chat template {path} is not there where the engine runs",
        "correct the path (--set chat-template=PATH) and bind its folder (`binds` in the site's "
        "file)",
    ),
    _sign(
        "media-root-missing",
        r"Invalid .?--allowed-local-media-path.?: The path (?P<path>\S+) (?:does not|must be)",
        "the folder for file:// images is no folder where the engine runs: {path}",
        "name one that is: --media-root FOLDER",
    ),
    _sign(
        "quantization-unknown",
        r"Unknown quantization method: (?P<method>\S+)",
        "this version of vLLM knows no quantization {method}",
        "leave `quantization` out (vLLM reads it from the model), or use a newer engine",
    ),
    _sign(
        "quantization-mismatch",
        r"Cannot find the config file for (?P<method>\w+)|Quantization method specified in the "
        r"model config \((?P<found>\w+)\) does not match",
        "the model's weights are not quantized the way the `quantization` option says: "
        "{method}{found}",
        "leave `quantization` out: vLLM reads it from the model",
    ),
    _sign(
        "lora-missing",
        r"Loading lora (?P<name>\S+) failed: No adapter found for (?P<path>[^\s']+)",
        "there is no LoRA adapter {name} at {path} where the engine runs",
        "correct the path in lora-modules and bind its folder (`binds` in the site's file)",
    ),
    _sign(
        "port-variable",
        r"VLLM_PORT '(?P<value>[^']*)' appears to be a URI",
        "the environment variable VLLM_PORT is no port: {value}",
        "take VLLM_PORT out of the `environment` of the site's and the model's file",
    ),
    _sign(
        "port-taken",
        r"Errno 98\]|(?i:address already in use)",
        "another program on the node has the engine's port",
        "launch again, without --port among the engine's arguments: hpcvlm finds a free one",
    ),
    _sign(
        "socket-path-too-long",
        r"AF_UNIX path too long|ipc path \S+ is longer than|ZMQError: File name too long",
        "the folder for temporary files has too long a path for a socket",
        "set VLLM_RPC_BASE_PATH: /tmp in the site's `environment`",
    ),
)

_MODEL = (
    _sign(
        "architecture-removed",
        r"Model architecture (?P<architecture>\S+) was supported in vLLM until "
        r"v(?P<version>\d+(?:\.\d+)*)",
        "vLLM serves {architecture} up to {version} only, and this engine is newer",
        "list a vLLM up to {version} under `engines` in the site's file, and say so in the "
        "model's: engine: versions: '<={version}'",
    ),
    _sign(
        "architecture-plugin",
        r"Model architecture (?P<architecture>\S+) is not supported in-tree anymore",
        "vLLM serves {architecture} with a plugin only, which this engine lacks",
        "an engine that has the plugin, or an older one (`engines` in the site's file)",
    ),
    _sign(
        "remote-code",
        r"contains custom code which must be executed|trust_remote_code=True",
        "the model brings its own Python code, and nobody has allowed it to run",
        "read that code; then --set trust-remote-code=true",
    ),
    _sign(
        "transformers-too-old",
        r"model type [`'](?P<type>[^`']+)[`'] but Transformers does not recognize",
        "the engine's Transformers library does not know the model type {type}",
        "a newer engine (`engines` in the site's file)",
    ),
    _sign(
        "architecture-unknown",
        r"Model architectures \['?(?P<architecture>[^'\]]*)[^[]*? are not supported for now",
        "this version of vLLM does not serve {architecture}",
        "a newer engine (`engines` in the site's file), or another model (hpcvlm models ls)",
    ),
    _sign(
        "fallback-unsupported",
        r"has no attribute '_get_num_multimodal_tokens'",
        "vLLM has no code of its own for the model, and Transformers' cannot take images there",
        "another version of the engine (`engines` in the site's file), or another model",
    ),
    _sign(
        "gated",
        r"gated repo\. Make sure to have access to it at \S+?/(?P<repo>[\w.-]+/[\w.-]+?)\.? ",
        "the repository {repo} is gated: its licence is not accepted, or the node has no token",
        "accept the licence on its page, then download it where there is internet: hf auth "
        "login; hpcvlm snapshots pull {repo}",
    ),
    _sign(
        "gated",
        r"[Cc]annot access gated repo|trying to access a gated repo|Access to model .*restricted",
        "the model's repository is gated: its licence is not accepted, or the node has no token",
        "accept the licence on its page, then download it where there is internet: hf auth "
        "login; hpcvlm snapshots pull OWNER/NAME",
    ),
    _sign(
        "repository-unknown",
        r"(?<!\S)(?P<repo>\S+) is not a local folder and is not a valid model identifier"
        r"|Repository Not Found for url: (?P<url>\S+)",
        "there is no such repository, or only its members see it: {repo}{url}",
        "correct the name; for a private one: hf auth login; hpcvlm snapshots pull OWNER/NAME",
    ),
    _sign(
        "hub-unreachable",
        r"couldn't connect to '(?P<hub>[^']+)' to load the files",
        "the engine asks {hub} for the model's files, and the node does not reach it",
        "download the model where there is internet: hpcvlm snapshots pull OWNER/NAME",
    ),
    _sign(
        "snapshot-missing",
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|outgoing traffic has been disabled",
        "files of the model are not in the hub cache that the engine sees, or not of this revision",
        "fetch it where there is internet (hpcvlm snapshots pull OWNER/NAME), and name that cache "
        "under `hub_caches` in the site's file",
    ),
    _sign(
        "model-folder-missing",
        r"Repo id must be in the form .*: '(?P<path>[^']+)'",
        "there is no folder {path} where the engine runs",
        "correct the path, or bind the folder into the container (`binds` in the site's file)",
    ),
    _sign(
        "config-missing",
        r"Invalid repository ID or local directory specified: '(?P<path>[^']+)'",
        "the model's folder has no config.json: {path}",
        "fetch what is missing: hpcvlm snapshots pull OWNER/NAME",
    ),
    _sign(
        "config-broken",
        r"config file at '(?P<path>[^']+)' is not a valid JSON",
        "{path} is not valid JSON",
        "fetch what is damaged: hpcvlm snapshots verify OWNER/NAME --repair",
    ),
    _sign(
        "processor-missing",
        r"Can't load (?:\w+ )?(?P<part>processor|tokenizer|feature extractor) for "
        r"'(?P<path>[^']+)'",
        "the model's folder lacks the files of its {part}: {path}",
        "fetch what is missing: hpcvlm snapshots pull OWNER/NAME",
    ),
    _sign(
        "weights-missing",
        r"Cannot find any model weights with [`'](?P<path>[^`']+)",
        "the model's folder has no weights: {path}",
        "fetch what is missing: hpcvlm snapshots pull OWNER/NAME",
    ),
    _sign(
        "weights-broken",
        r"SafetensorError|[Ee]rror while deserializing header|incomplete metadata, file not fully",
        "a file of the model's weights is cut short or damaged",
        "fetch what is damaged: hpcvlm snapshots verify OWNER/NAME --repair",
    ),
)

_INSTALLATION = (
    _sign(
        "compiler-missing",
        r"Failed to find C compiler|fatal error: Python\.h|Could not find nvcc",
        "the engine wants to compile code, and finds no compiler or no headers for it",
        "--set enforce-eager=true, or an image that has a compiler; CC and CXX must not be in the "
        "site's `environment`",
    ),
    _sign(
        "compile-cache",
        r"vLLM failed to compile the model|corrupted compilation artifact"
        r"|failed to get the hash of the compiled graph",
        "the cache of compiled code is broken, as when two jobs write it at the same time",
        "delete torch_compile_cache below `cache_root`, or --set enforce-eager=true",
    ),
    _sign(
        "module-missing",
        r"No module named '(?P<module>[^']+)'",
        "the engine's installation lacks the Python module {module}",
        "install it beside the engine, or use an image that has it (`engines` in the site's file)",
    ),
    _sign(
        "architecture-broken",
        r"Model architectures \['?(?P<architecture>[^'\]]*)[^[]*? failed to be inspected",
        "the engine cannot import its own code for {architecture}",
        "another image or version (`engines` in the site's file); hpcvlm logs shows the import "
        "that failed",
    ),
    _sign(
        "file-missing",
        r"FileNotFoundError: \[Errno 2\] No such file or directory: '(?P<path>[^']+)'",
        "the engine does not find {path}",
        "correct the path, or bind its folder into the container (`binds` in the site's file)",
    ),
    _sign(
        "file-missing",
        r"FileNotFoundError: \[Errno 2\] No such file or directory$",
        "the engine does not find a file, and does not say which; TLS keys and certificates are "
        "reported like this",
        "check the paths of ssl-keyfile, ssl-certfile and ssl-ca-certs",
    ),
    _sign(
        "command-missing",
        r"(?<!\S)(?P<command>\S+): command not found",
        "a command is not there on the node: {command}",
        "correct `command` under `engines` in the site's file, or load what brings it (`modules`)",
    ),
    _sign(
        "container-failed",
        r"^FATAL\s*: +(?P<words>.+)",
        "the container did not start: {words}",
        "correct `engines`, `binds` or `runtime` in the site's file",
    ),
    _sign(
        "killed",
        r"(?:^|\s)Killed(?:\s|$)|died unexpectedly \(exit code: -9\)",
        "the engine was killed from outside; if nobody did it, for want of main memory",
        "give it more: memory_per_gpu in the site's file; or more GPUs (--gpus TYPE:N)",
    ),
    _sign(
        "crashed",
        r"Segmentation fault|Segfault encountered|Fatal Python error",
        "the engine crashed in compiled code",
        "launch again; if it crashes again, --set enforce-eager=true or another version of the "
        "engine",
    ),
)

SIGNATURES = (
    *_SCHEDULER,
    *_CONTAINER,
    *_STORAGE,
    *_GPU,
    *_CONTEXT,
    *_ARGUMENTS,
    *_MODEL,
    *_INSTALLATION,
)
