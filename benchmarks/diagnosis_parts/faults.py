"""Small programs that fail for a known cause; half of them are held apart from the rules.

Each program is run, and its output is the log. `{work}` is a new folder with a tiny model
(`model/`), a recipe (`recipe.yaml`), its data, and a folder without access rights (`locked/`).
`{small}` is a file system of 1 MiB.
"""
# ruff: noqa: E501 - programs are as long as they are

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """Program that fails.

    Attributes:
        name: Name of its log.
        cause: Expected diagnosis.
        apart: Whether the rules were written without its log.
        code: Code in Python, or in bash if it begins with `#!`.
        as_nobody: Whether it runs without root's rights.
    """

    name: str
    cause: str
    apart: bool
    code: str
    without_rights: bool = False


def _seen(name: str, cause: str, code: str, *, without_rights: bool = False) -> Fault:
    return Fault(name, cause, apart=False, code=code, without_rights=without_rights)


def _apart(name: str, cause: str, code: str, *, without_rights: bool = False) -> Fault:
    return Fault(name, cause, apart=True, code=code, without_rights=without_rights)


_TELL = "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out out "
_WORKER = """
import os, torch.distributed as dist, sys, time, datetime
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[3])
rank = int(sys.argv[1])
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=5))
import torch
for step in range(3):
    if rank == 1 and step == 1:
        {fault}
    dist.all_reduce(torch.ones(4))
    print("step", step, "rank", rank, flush=True)
"""
_TWO = (
    """#!/bin/bash
cd {work}; cat > two.py <<'P'
"""
    + _WORKER
    + """P
python two.py 1 - 29{port} & python two.py 0 - 29{port}; wait
"""
)
_SERVER = """
import http.server, os, threading
class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.send_response({status}); self.send_header("Content-Length", "0")
        for name, value in {headers}.items(): self.send_header(name, value)
        self.end_headers()
    do_GET = do_HEAD = answer
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_HUB_DOWNLOAD_TIMEOUT"] = "2"
os.environ.pop("HF_HUB_OFFLINE", None)
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained("acme/large")
"""


def _hub(status: int, headers: dict[str, str] | None = None) -> str:
    return _SERVER.replace("{status}", str(status)).replace("{headers}", repr(headers or {}))


def _two(port: int, fault: str) -> str:
    return _TWO.replace("{port}", str(port)).replace("{fault}", fault)


FAULTS: tuple[Fault, ...] = (
    # Memory.
    _seen("torch_allocation", "out_of_memory", "import torch; torch.empty(10**14)"),
    _seen("numpy_allocation", "out_of_memory", "import numpy; numpy.ones(10**14)"),
    _seen(
        "limited_list",
        "out_of_memory",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        "rows = []\nwhile True: rows.append(bytearray(2**20))",
    ),
    _seen(
        "limited_model",
        "out_of_memory",
        "import resource, torch\nfrom torch import nn\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "model = nn.Sequential(*[nn.Linear(8192, 8192) for _ in range(64)])",
    ),
    # Ended from outside.
    _seen(
        "killed_by_system",
        "killed",
        "#!/bin/bash\nbash -c 'python -c \"import os,signal; print(1, flush=True); os.kill(os.getpid(), 9)\"; true'",
    ),
    _seen(
        "loader_worker_killed",
        "killed",
        "import os, torch\nfrom torch.utils.data import DataLoader, Dataset\n"
        "class Rows(Dataset):\n    def __len__(self): return 8\n"
        "    def __getitem__(self, i): os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__': list(DataLoader(Rows(), num_workers=1))",
    ),
    _seen(
        "pool_worker_killed",
        "killed",
        "import os\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "def work(i): os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__':\n"
        "    with ProcessPoolExecutor(1) as pool: list(pool.map(work, range(3)))",
    ),
    _seen(
        "torchrun_worker_killed",
        "killed",
        "#!/bin/bash\ncd {work}; echo 'import os; os.kill(os.getpid(), 9)' > w.py\n"
        "torchrun --nproc-per-node 1 w.py",
    ),
    _seen(
        "terminated",
        "preempted",
        "#!/bin/bash\nbash -c 'sleep 9 & p=$!; (sleep 1; kill $p) & wait $p; bash -c \"kill \\$\\$\"; true'",
    ),
    _seen(
        "torchrun_terminated",
        "preempted",
        "#!/bin/bash\ncd {work}; echo 'import time; time.sleep(30)' > w.py\n"
        "torchrun --nproc-per-node 1 w.py & p=$!; sleep 8; kill -TERM $p; wait $p",
    ),
    _seen("over_wall_time", "time_limit", "#!/bin/bash\ntimeout -v 2 sleep 20"),
    _seen(
        "over_cpu_time",
        "time_limit",
        "#!/bin/bash\nbash -c 'ulimit -S -t 1; python -c \"while True: pass\"; true'",
    ),
    _seen(
        "interrupt",
        "interrupted",
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def train():\n    signal.raise_signal(signal.SIGINT); time.sleep(5)\ntrain()",
    ),
    _seen(
        "interrupted_fit",
        "interrupted",
        _TELL + "& p=$!; sleep 12; kill -INT $p; kill -INT $p; wait $p",
    ),
    # Processes that talk to one another.
    _seen(
        "peer_missing",
        "communication",
        "#!/bin/bash\ncd {work}; cat > one.py <<'P'\n"
        + _WORKER.replace("{fault}", "pass")
        + "P\npython one.py 0 - 29731",
    ),
    _seen("peer_dies", "communication", _two(732, "os._exit(1)")),
    _seen("peer_hangs", "communication", _two(733, "time.sleep(20)")),
    _seen(
        "master_unreachable",
        "communication",
        "import os, datetime, torch.distributed as dist\n"
        "os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29734')\n"
        "dist.init_process_group('gloo', rank=1, world_size=2, timeout=datetime.timedelta(seconds=4))",
    ),
    # One rank's mistake, and the messages of the other ranks.
    _seen("peer_mistake", "programming_error", _two(735, "batch['labels']")),
    _seen("peer_memory", "out_of_memory", _two(736, "torch.empty(10**14)")),
    # Disks.
    _seen("disk_full_write", "disk_full", "open('{small}/rows', 'wb').write(bytes(2**22))"),
    _seen(
        "disk_full_torch",
        "disk_full",
        "import torch; torch.save(torch.ones(2**20), '{small}/state.pt')",
    ),
    _seen(
        "disk_full_safetensors",
        "disk_full",
        "import torch\nfrom safetensors.torch import save_file\n"
        "save_file({'a': torch.ones(2**20)}, '{small}/model.safetensors')",
    ),
    _seen(
        "corrupt_safetensors",
        "corrupt_file",
        "#!/bin/bash\ncd {work}; head -c 900 model/model.safetensors > x; mv x model/model.safetensors; python -c \"from safetensors.torch import load_file; load_file('model/model.safetensors')\"",
    ),
    _seen(
        "corrupt_checkpoint",
        "corrupt_file",
        "import torch\ntorch.save({'a': torch.ones(9999)}, '{work}/c.pt')\n"
        "data = open('{work}/c.pt', 'rb').read()\nopen('{work}/c.pt', 'wb').write(data[:9000])\n"
        "torch.load('{work}/c.pt')",
    ),
    _seen(
        "many_files",
        "open_files",
        "#!/bin/bash\nulimit -n 40; python -c \"f=[open('/dev/null') for _ in range(99)]\"",
    ),
    _seen(
        "many_sockets",
        "open_files",
        '#!/bin/bash\nulimit -n 40; python -c "import socket; s=[socket.socket() for _ in range(99)]"',
    ),
    _seen(
        "small_shared_memory",
        "shared_memory",
        "#!/bin/bash\ncd {work}; cat > s.py <<'P'\nimport torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "if __name__ == '__main__':\n"
        "    rows = TensorDataset(torch.ones(64, 300000))\n"
        "    list(DataLoader(rows, batch_size=16, num_workers=2))\nP\n"
        "unshare -m bash -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm; python s.py'",
    ),
    _seen(
        "small_shared_tensor",
        "shared_memory",
        "#!/bin/bash\nunshare -m bash -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm; "
        'python -c "import torch; torch.ones(2**22).share_memory_()"\'',
    ),
    # Rights, files, models, the network.
    _seen(
        "no_right_to_read", "permission", "open('{work}/locked/train.jsonl')", without_rights=True
    ),
    _seen(
        "no_right_to_write",
        "permission",
        "#!/bin/bash\nmkdir {work}/locked/runs",
        without_rights=True,
    ),
    _seen(
        "no_right_to_save",
        "permission",
        "import torch; torch.save(torch.ones(3), '{work}/locked/state.pt')",
        without_rights=True,
    ),
    _seen("file_missing", "missing_file", "import json\njson.load(open('rows.json'))"),
    _seen("data_missing", "missing_file", _TELL + "--set task.train=nowhere.jsonl"),
    _seen(
        "dataset_missing",
        "missing_file",
        "from datasets import load_dataset\nload_dataset('json', data_files='nowhere.jsonl')",
    ),
    _seen(
        "model_not_cached",
        "missing_model",
        "import os\nos.environ['HF_HUB_OFFLINE'] = '1'\nfrom transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained('acme/no-such-model')",
    ),
    _seen("model_folder_missing", "missing_model", _TELL + "--set model=./nowhere"),
    _seen(
        "model_folder_empty",
        "missing_model",
        "import os\nos.makedirs('{work}/empty')\nfrom transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained('{work}/empty')",
    ),
    _seen("hub_unauthorized", "no_access", _hub(401, {"X-Error-Code": "GatedRepo"})),
    _seen("hub_forbidden", "no_access", _hub(403)),
    _seen(
        "hub_refused",
        "network",
        "import os\nos.environ['HF_ENDPOINT'] = 'http://127.0.0.1:9'\nos.environ.pop('HF_HUB_OFFLINE', None)\nfrom huggingface_hub import hf_hub_download\nhf_hub_download('acme/large', 'config.json')",
    ),
    _seen(
        "name_unknown",
        "network",
        "import urllib.request\nurllib.request.urlopen('http://hub.acme.invalid/model')",
    ),
    _seen(
        "server_overloaded",
        "network",
        "import http.server, threading, requests\n"
        + _hub(503).split("import http.server, os, threading")[1].split("os.environ[")[0]
        + "requests.get(f'http://127.0.0.1:{server.server_port}/m').raise_for_status()",
    ),
    _seen(
        "server_silent",
        "network",
        "import socket, requests\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "requests.get(f'http://127.0.0.1:{s.getsockname()[1]}/m', timeout=2)",
    ),
    _seen(
        "address_taken",
        "address_in_use",
        "import socket\na = socket.socket(); a.bind(('127.0.0.1', 29741)); a.listen()\nsocket.socket().bind(('127.0.0.1', 29741))",
    ),
    _seen(
        "store_taken",
        "address_in_use",
        "import socket, torch.distributed as dist\n"
        "a = socket.socket(socket.AF_INET6); a.bind(('::', 29742)); a.listen()\n"
        "dist.TCPStore('127.0.0.1', 29742, 1, True)",
    ),
    # Data and settings.
    _seen(
        "row_broken",
        "bad_data",
        '#!/bin/bash\ncd {work}; echo \'{"prompt": "a", \' >> train.jsonl; tell fit recipe.yaml --out out',
    ),
    _seen(
        "row_broken_json",
        "bad_data",
        'import json\njson.loads(\'{"prompt": "a", "completion": }\')',
    ),
    _seen(
        "rows_broken_datasets",
        "bad_data",
        "from datasets import load_dataset\nopen('{work}/b.jsonl', 'w').write('{\"a\": 1}\\n{\"a\": [}\\n')\nload_dataset('json', data_files='{work}/b.jsonl')",
    ),
    _seen(
        "csv_ragged",
        "bad_data",
        "import pandas\nopen('{work}/c.csv', 'w').write('a,b\\n1,2\\n3,4,5\\n')\npandas.read_csv('{work}/c.csv')",
    ),
    _seen(
        "not_utf8",
        "bad_data",
        "open('{work}/l.txt', 'wb').write(b'caf\\xe9')\nopen('{work}/l.txt', encoding='utf-8').read()",
    ),
    _seen(
        "unhealthy_fit",
        "diverged",
        _TELL + "--set training.learning_rate=1e30 --set training.warmup_steps=0",
    ),
    _seen(
        "anomaly",
        "diverged",
        "import torch\nx = torch.zeros(1, requires_grad=True)\nwith torch.autograd.detect_anomaly():\n    (torch.sqrt(x) * 0).backward()",
    ),
    _seen(
        "no_probabilities",
        "diverged",
        "import torch; torch.multinomial(torch.tensor([float('nan'), 1.0]), 1)",
    ),
    _seen("unknown_key", "configuration", _TELL + "--set training.leraning_rate=1"),
    _seen(
        "yaml_broken",
        "configuration",
        "import yaml\nyaml.safe_load('training: {rate: 1\\nmodel: [x')",
    ),
    _seen(
        "unknown_argument",
        "configuration",
        "import argparse, sys\np = argparse.ArgumentParser('train.py'); p.add_argument('--lr')\np.parse_args(['--learning', '1'])",
    ),
    _seen("no_package", "missing_package", "import flash_attn"),
    _seen(
        "no_flash",
        "missing_package",
        "from transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained('{work}/model', attn_implementation='flash_attention_2')",
    ),
    _seen("no_cuda", "gpu_mismatch", "import torch; torch.ones(3, device='cuda')"),
    _seen(
        "cuda_checkpoint",
        "gpu_mismatch",
        "import torch, io, pickle\nfrom unittest import mock\nx = torch.ones(3)\nb = io.BytesIO()\nwith mock.patch('torch.serialization.location_tag', lambda s: 'cuda:0'):\n    torch.save(x, b)\nb.seek(0); torch.load(b)",
    ),
    _seen(
        "shapes_multiply",
        "shape_mismatch",
        "import torch\nfrom torch import nn\nnn.Linear(4, 2)(torch.ones(3, 5))",
    ),
    _seen(
        "shapes_load",
        "shape_mismatch",
        "from torch import nn\nnn.Linear(4, 2).load_state_dict(nn.Linear(4, 3).state_dict())",
    ),
    _seen(
        "token_outside",
        "shape_mismatch",
        "import torch\nfrom torch import nn\nnn.Embedding(4, 2)(torch.tensor([9]))",
    ),
    _seen("name_error", "programming_error", "print(lost)"),
    _seen("key_error", "programming_error", "row = {'prompt': 'a'}\nrow['completion']"),
    _seen("type_error", "programming_error", "len(3)"),
    _seen("attribute_error", "programming_error", "import torch; torch.ones(3).foo"),
    _seen(
        "assertion",
        "programming_error",
        "loss_weights = None\nassert loss_weights is not None, 'weights first'",
    ),
    # A second round, held apart until its table was made; then rules were written from it.
    _seen(
        "threads_memory",
        "out_of_memory",
        "import resource\nfrom concurrent.futures import ThreadPoolExecutor\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\ndef work(i): return bytes(2**31)\nlist(ThreadPoolExecutor(1).map(work, [1]))",
    ),
    _seen(
        "safetensors_memory",
        "out_of_memory",
        "import resource, torch\nfrom safetensors.torch import save\nx = torch.ones(2**28)\nresource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))\nkept = [x.clone() for _ in range(9)]",
    ),
    _seen(
        "fork_memory", "out_of_memory", "#!/bin/bash\nulimit -v 60000; python -c 'x = [0] * 10**9'"
    ),
    _seen(
        "process_exit_code",
        "killed",
        "import multiprocessing, os\ndef work(): os.kill(os.getpid(), 9)\nif __name__ == '__main__':\n    p = multiprocessing.Process(target=work); p.start(); p.join()\n    raise RuntimeError(f'worker ended with exit code {p.exitcode}')",
    ),
    _seen(
        "child_terminated",
        "preempted",
        "import subprocess\nsubprocess.run(['bash', '-c', 'kill -TERM $$'], check=True)",
    ),
    _seen("alarm", "time_limit", "#!/bin/bash\nbash -c 'perl -e \"alarm 1; sleep 9\"; true'"),
    _seen(
        "store_wait",
        "communication",
        "import datetime, torch.distributed as dist\ns = dist.TCPStore('127.0.0.1', 29761, 1, True, timeout=datetime.timedelta(seconds=2))\ns.get('never')",
    ),
    _seen(
        "rendezvous",
        "communication",
        "#!/bin/bash\ncd {work}; echo 'print(1)' > w.py; timeout 60 torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:29762 --rdzv-conf timeout=5,join_timeout=5,is_host=0 w.py",
    ),
    _seen(
        "barrier",
        "communication",
        _two(763, "time.sleep(20)").replace(
            "dist.all_reduce(torch.ones(4))",
            "dist.monitored_barrier(timeout=datetime.timedelta(seconds=3))",
        ),
    ),
    _seen(
        "pipe_closed",
        "communication",
        "import socket\na, b = socket.socketpair(); b.close()\nfor _ in range(3): a.sendall(b'gradient')",
    ),
    _seen("peer_out_of_range", "shape_mismatch", _two(764, "torch.ones(2, 3) @ torch.ones(2, 3)")),
    _seen(
        "copy_disk_full",
        "disk_full",
        "#!/bin/bash\nhead -c 4000000 /dev/zero > {work}/big; cp {work}/big {small}/",
    ),
    _seen(
        "sqlite_disk_full",
        "disk_full",
        "import sqlite3\nd = sqlite3.connect('{small}/runs.db'); d.execute('create table t (x)')\nd.execute('insert into t values (?)', (bytes(2**22),)); d.commit()",
    ),
    _seen(
        "dataset_disk_full",
        "disk_full",
        "from datasets import Dataset\nDataset.from_dict({'text': ['x' * 10**5] * 99}).save_to_disk('{small}/rows')",
    ),
    _seen(
        "zip_truncated",
        "corrupt_file",
        "import zipfile\nopen('{work}/d.zip', 'wb').write(b'PK' + bytes(99))\nzipfile.ZipFile('{work}/d.zip')",
    ),
    _seen(
        "gzip_wrong",
        "corrupt_file",
        "import gzip\nopen('{work}/d.gz', 'wb').write(b'hello there')\ngzip.open('{work}/d.gz').read()",
    ),
    _seen(
        "weights_garbled",
        "corrupt_file",
        "import torch\nopen('{work}/w.bin', 'wb').write(b'\\x91' * 4000)\ntorch.load('{work}/w.bin')",
    ),
    _seen(
        "popen_files",
        "open_files",
        "#!/bin/bash\nulimit -n 24; python -c \"import subprocess; p=[subprocess.Popen(['sleep','2'], stdout=-1) for _ in range(40)]\"",
    ),
    _seen(
        "shared_memory_bus",
        "shared_memory",
        "#!/bin/bash\nunshare -m bash -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm; python -c \"from multiprocessing.shared_memory import SharedMemory as S; s=S(create=True,size=2**24); s.buf[:]=bytes(2**24)\"; true'",
    ),
    _seen(
        "fit_without_rights",
        "permission",
        "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out locked/out",
        without_rights=True,
    ),
    _seen(
        "cat_without_rights",
        "permission",
        "#!/bin/bash\ncat {work}/locked/train.jsonl",
        without_rights=True,
    ),
    _seen(
        "cat_missing", "missing_file", "#!/bin/bash\ncd {work}; cat nowhere.jsonl | tell check -"
    ),
    _seen(
        "checkpoint_missing",
        "missing_file",
        "import torch; torch.load('{work}/checkpoint-900/state.pt')",
    ),
    _seen(
        "tokenizer_missing",
        "missing_model",
        "import os\nos.makedirs('{work}/empty')\nfrom transformers import AutoTokenizer\nAutoTokenizer.from_pretrained('{work}/empty')",
    ),
    _seen(
        "adapter_missing",
        "missing_model",
        "import os\nos.environ['HF_HUB_OFFLINE'] = '1'\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\nPeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained('{work}/model'), '{work}/nowhere')",
    ),
    _seen("hub_not_found", "missing_model", _hub(404, {"X-Error-Code": "RepoNotFound"})),
    _seen(
        "requests_unauthorized",
        "no_access",
        "import http.server, threading, requests\n"
        + _hub(401).split("import http.server, os, threading")[1].split("os.environ[")[0]
        + "requests.get(f'http://127.0.0.1:{server.server_port}/m').raise_for_status()",
    ),
    _seen(
        "bad_gateway",
        "network",
        "import http.server, threading, urllib.request\n"
        + _hub(502).split("import http.server, os, threading")[1].split("os.environ[")[0]
        + "urllib.request.urlopen(f'http://127.0.0.1:{server.server_port}/m')",
    ),
    _seen("hub_rate_limit", "network", _hub(429)),
    _seen(
        "plain_for_tls",
        "network",
        "import http.server, threading, requests\n"
        + _hub(200).split("import http.server, os, threading")[1].split("os.environ[")[0]
        + "requests.get(f'https://127.0.0.1:{server.server_port}/m', timeout=3)",
    ),
    _seen(
        "server_address_taken",
        "address_in_use",
        "import http.server\na = http.server.HTTPServer(('127.0.0.1', 29771), None)\nimport socketserver\nsocketserver.TCPServer(('127.0.0.1', 29771), None)",
    ),
    _seen(
        "column_missing",
        "bad_data",
        '#!/bin/bash\ncd {work}; echo \'{"text": "a", "tag": "b"}\' > t.jsonl; tell fit recipe.yaml --out out --set task.train=t.jsonl',
    ),
    _seen(
        "data_empty",
        "bad_data",
        "#!/bin/bash\ncd {work}; : > t.jsonl; tell fit recipe.yaml --out out --set task.train=t.jsonl",
    ),
    _seen(
        "column_missing_pandas",
        "bad_data",
        "import pandas\nopen('{work}/c.csv', 'w').write('a,b\\n1,x\\n')\npandas.read_csv('{work}/c.csv', usecols=['prompt'])",
    ),
    _seen(
        "distribution_nan",
        "diverged",
        "import torch\ntorch.distributions.Categorical(probs=torch.tensor([float('nan'), 0.5]))",
    ),
    _seen(
        "loss_check",
        "diverged",
        "loss = float('nan')\nif loss != loss: raise FloatingPointError('Loss is NaN at step 12')",
    ),
    _seen(
        "task_missing",
        "configuration",
        "#!/bin/bash\ncd {work}; echo 'model: ./model' > r.yaml; tell fit r.yaml --out out",
    ),
    _seen("option_unknown", "configuration", "#!/bin/bash\ncd {work}; tell fit recipe.yaml --lr 3"),
    _seen(
        "settings_invalid",
        "configuration",
        "from pydantic import BaseModel\nclass Settings(BaseModel):\n    rate: float\nSettings(rate='high')",
    ),
    _seen(
        "rank_not_set",
        "configuration",
        "import torch.distributed as dist\ndist.init_process_group('gloo')",
    ),
    _seen("command_missing", "missing_package", "#!/bin/bash\ndeepspeed train.py"),
    _seen("name_missing", "missing_package", "from transformers import FlashLlamaForEverything"),
    _seen("other_device", "gpu_mismatch", "import torch; torch.ones(3).to('xpu')"),
    _seen(
        "cat_shapes",
        "shape_mismatch",
        "import torch; torch.cat([torch.ones(2, 3), torch.ones(2, 4)])",
    ),
    _seen(
        "target_shape",
        "shape_mismatch",
        "import torch\nfrom torch.nn.functional import cross_entropy\ncross_entropy(torch.ones(3, 5), torch.zeros(4).long())",
    ),
    _seen("view_shape", "shape_mismatch", "import torch; torch.ones(5).view(2, 3)"),
    _seen("recursion", "programming_error", "def f(): return f()\nf()"),
    _seen("syntax", "programming_error", "def f(:\n    pass"),
    _seen("index_error", "programming_error", "rows = []\nprint(rows[0])"),
    _seen(
        "own_exception",
        "programming_error",
        "class MixtureError(Exception): pass\ndef draw(): raise MixtureError('the quota of source 3 is negative')\ndraw()",
    ),
    _seen(
        "torchrun_mistake",
        "programming_error",
        "#!/bin/bash\ncd {work}; echo 'print(undefined_name)' > w.py; torchrun --nproc-per-node 2 w.py",
    ),
    # A third round, as the second.
    _seen("map_memory", "out_of_memory", "import mmap; mmap.mmap(-1, 2**50)"),
    _seen(
        "frame_memory",
        "out_of_memory",
        "import pandas, resource\nresource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\npandas.DataFrame({'a': range(10**7)}).merge(pandas.DataFrame({'b': range(10**4)}), how='cross')",
    ),
    _seen(
        "xargs_killed",
        "killed",
        "#!/bin/bash\ncd {work}; echo 'import os; os.kill(os.getpid(), 9)' > w.py; echo w.py | xargs python",
    ),
    _seen(
        "child_exit_code",
        "preempted",
        "import multiprocessing, os, signal\ndef work(): os.kill(os.getpid(), signal.SIGTERM)\nif __name__ == '__main__':\n    p = multiprocessing.Process(target=work); p.start(); p.join()\n    raise SystemExit(f'worker ended by {signal.Signals(-p.exitcode).name}')",
    ),
    _seen(
        "command_timeout",
        "time_limit",
        "import subprocess; subprocess.run(['sleep', '9'], timeout=1)",
    ),
    _seen(
        "reset_by_peer",
        "communication",
        "import socket, struct\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\nc = socket.create_connection(s.getsockname()); a, _ = s.accept()\na.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); a.close()\nc.recv(9)",
    ),
    _seen(
        "peer_asserts",
        "programming_error",
        _two(782, "raise NotImplementedError('packing of audio')"),
    ),
    _seen("peer_disk_full", "disk_full", _two(783, "open('{small}/c', 'wb').write(bytes(2**23))")),
    _seen(
        "tar_disk_full",
        "disk_full",
        "#!/bin/bash\ncd {work}; head -c 4000000 /dev/zero > big; tar cf big.tar big; tar xf big.tar -C {small}",
    ),
    _seen(
        "numpy_disk_full",
        "disk_full",
        "import numpy; numpy.save('{small}/x.npy', numpy.ones(10**6))",
    ),
    _seen(
        "fit_disk_full",
        "disk_full",
        "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out {small}/out",
    ),
    _seen(
        "copytree_without_rights",
        "permission",
        "import shutil; shutil.copytree('{work}/locked', '{work}/copy')",
        without_rights=True,
    ),
    _seen(
        "numpy_without_rights",
        "permission",
        "import numpy; numpy.load('{work}/locked/x.npy')",
        without_rights=True,
    ),
    _seen("script_missing", "missing_file", "#!/bin/bash\ncd {work}; python finetune.py"),
    _seen("frame_missing", "missing_file", "import pandas; pandas.read_csv('rows.csv')"),
    _seen(
        "pipeline_model_missing",
        "missing_model",
        "import os\nos.environ['HF_HUB_OFFLINE'] = '1'\nfrom transformers import pipeline\npipeline('text-generation', model='./checkpoints/last')",
    ),
    _seen(
        "tokenizer_not_found",
        "missing_model",
        _hub(404, {"X-Error-Code": "RepoNotFound"}).replace(
            "AutoModelForCausalLM", "AutoTokenizer"
        ),
    ),
    _seen(
        "token_missing",
        "no_access",
        "import os\nos.environ['HF_HOME'] = '{work}/hf'\nfrom huggingface_hub import whoami\nwhoami()",
    ),
    _seen(
        "closed_early",
        "network",
        "import socket, threading, urllib.request\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\ndef serve():\n    c, _ = s.accept(); c.recv(99); c.close()\nthreading.Thread(target=serve, daemon=True).start()\nurllib.request.urlopen(f'http://127.0.0.1:{s.getsockname()[1]}/m')",
    ),
    _seen(
        "open_timeout",
        "network",
        "import socket, urllib.request\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\nurllib.request.urlopen(f'http://127.0.0.1:{s.getsockname()[1]}/m', timeout=2)",
    ),
    _seen(
        "async_address",
        "address_in_use",
        "import asyncio, socket\na = socket.socket(); a.bind(('127.0.0.1', 29791)); a.listen()\nasyncio.run(asyncio.start_server(lambda r, w: None, '127.0.0.1', 29791))",
    ),
    _seen(
        "xml_broken",
        "bad_data",
        "import xml.etree.ElementTree as E; E.fromstring('<row><a></row>')",
    ),
    _seen(
        "csv_nul",
        "bad_data",
        "import csv, io\ncsv.field_size_limit(10)\nlist(csv.reader(io.StringIO('a,' + 'b' * 99)))",
    ),
    _seen(
        "rows_differ",
        "bad_data",
        '#!/bin/bash\ncd {work}; printf \'{"prompt": 3, "completion": [1]}\\n\' > t.jsonl; tell fit recipe.yaml --out out --set task.train=t.jsonl',
    ),
    _seen(
        "svd_nan", "diverged", "import torch; torch.linalg.svd(torch.full((3, 3), float('nan')))"
    ),
    _seen(
        "loss_assert",
        "diverged",
        "loss = float('inf')\nassert loss < 1e9, 'loss is inf at step 40'",
    ),
    _seen(
        "argument_required",
        "configuration",
        "import argparse\np = argparse.ArgumentParser('train.py'); p.add_argument('--data', required=True)\np.parse_args([])",
    ),
    _seen("torchrun_option", "configuration", "#!/bin/bash\ntorchrun --nprocs 2 train.py"),
    _seen(
        "section_missing",
        "configuration",
        "import configparser; configparser.ConfigParser().get('train', 'rate')",
    ),
    _seen(
        "value_wrong",
        "configuration",
        "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out out --set mixture.passes=many",
    ),
    _seen("library_missing", "missing_package", "import ctypes; ctypes.CDLL('libnccl.so.2')"),
    _seen(
        "metadata_missing",
        "missing_package",
        "import importlib.metadata; importlib.metadata.version('flash-attn')",
    ),
    _seen("generator_device", "gpu_mismatch", "import torch; torch.Generator(device='cuda')"),
    _seen("cuda_properties", "gpu_mismatch", "import torch; torch.cuda.get_device_properties(0)"),
    _seen(
        "broadcast_shapes", "shape_mismatch", "import numpy; numpy.ones((2, 3)) + numpy.ones((4,))"
    ),
    _seen(
        "matmul_shapes", "shape_mismatch", "import numpy; numpy.ones((2, 3)) @ numpy.ones((4, 5))"
    ),
    _seen(
        "stack_shapes",
        "shape_mismatch",
        "import torch; torch.stack([torch.ones(2), torch.ones(3)])",
    ),
    _seen("norm_shape", "shape_mismatch", "import torch; torch.nn.LayerNorm(4)(torch.ones(2, 5))"),
    _seen("pickle_cut", "corrupt_file", "import io, pickle; pickle.load(io.BytesIO(b''))"),
    _seen(
        "tar_wrong",
        "corrupt_file",
        "import tarfile\nopen('{work}/d.tar', 'wb').write(b'no tar at all')\ntarfile.open('{work}/d.tar')",
    ),
    _seen(
        "pipe_files",
        "open_files",
        "#!/bin/bash\nulimit -n 30; python -c 'import os; p=[os.pipe() for _ in range(40)]'",
    ),
    _seen(
        "queue_shared_memory",
        "shared_memory",
        "#!/bin/bash\ncd {work}; cat > q.py <<'P'\nimport torch, torch.multiprocessing as mp\nif __name__ == '__main__':\n    q = mp.get_context('spawn').Queue()\n    x = torch.ones(2**22); x.share_memory_(); q.put(x)\nP\nunshare -m bash -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm; python q.py'",
    ),
    _seen("no_gradient", "programming_error", "import torch; torch.ones(3).sum().backward()"),
    _seen(
        "twice_backward",
        "programming_error",
        "import torch\nx = torch.ones(3, requires_grad=True); y = (x * x).sum(); y.backward(); y.backward()",
    ),
    _seen(
        "torchrun_interrupted",
        "interrupted",
        "#!/bin/bash\ncd {work}; echo 'import time; time.sleep(30)' > w.py\npython - <<'P'\nimport signal, subprocess, time\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\np = subprocess.Popen(['torchrun', '--nproc-per-node', '1', 'w.py']); time.sleep(12); p.send_signal(2); p.wait()\nP",
    ),
    # A fourth round, as the second.
    _seen(
        "tokenize_memory",
        "out_of_memory",
        "import resource, torch\nresource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\nx = torch.ones(2**12, 2**12)\nkept = [torch.cat([x] * 8) for _ in range(99)]",
    ),
    _seen(
        "string_memory",
        "out_of_memory",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\ntext = 'x' * 2**31",
    ),
    _seen(
        "scipy_memory",
        "out_of_memory",
        "import numpy, resource\nresource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\nfrom scipy.spatial.distance import cdist\ncdist(numpy.ones((10**5, 2)), numpy.ones((10**5, 2)))",
    ),
    _seen(
        "subprocess_killed",
        "killed",
        "import subprocess\nsubprocess.run(['bash', '-c', 'kill -9 $$'], check=True)",
    ),
    _seen(
        "trap_term",
        "preempted",
        "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out out & p=$!; sleep 14; kill -TERM $p; wait $p",
    ),
    _seen(
        "two_masters",
        "address_in_use",
        "#!/bin/bash\ncd {work}; echo 'import time; time.sleep(15)' > w.py; torchrun --master-port 29801 w.py & sleep 6; torchrun --master-port 29801 w.py; wait",
    ),
    _seen("reduce_timeout", "communication", _two(802, "time.sleep(9)")),
    _seen(
        "wrong_world",
        "communication",
        "#!/bin/bash\ncd {work}; cat > one.py <<'P'\n"
        + _WORKER.replace("{fault}", "pass").replace("world_size=2", "world_size=3")
        + "P\npython one.py 1 - 29803 & python one.py 0 - 29803; wait",
    ),
    _seen("peer_bad_data", "bad_data", _two(804, "__import__('json').loads('{a}')")),
    _seen("peer_no_model", "missing_file", _two(805, "torch.load('/nowhere/state.pt')")),
    _seen("dd_disk_full", "disk_full", "#!/bin/bash\ndd if=/dev/zero of={small}/x bs=1M count=9"),
    _seen(
        "gzip_disk_full",
        "disk_full",
        "import gzip, os\nwith gzip.open('{small}/x.gz', 'wb') as f: f.write(os.urandom(2**23))",
    ),
    _seen(
        "mktemp_disk_full",
        "disk_full",
        "import os, tempfile\nos.environ['TMPDIR'] = '{small}'\nwith tempfile.NamedTemporaryFile() as f:\n    for _ in range(99): f.write(bytes(2**20)); f.flush()",
    ),
    _seen(
        "shelve_without_rights",
        "permission",
        "open('{work}/locked/log.txt', 'a')",
        without_rights=True,
    ),
    _seen(
        "bash_without_rights",
        "permission",
        "#!/bin/bash\necho 1 > {work}/locked/x",
        without_rights=True,
    ),
    _seen(
        "tell_data_without_rights",
        "permission",
        "#!/bin/bash\ncd {work}; tell check locked/train.jsonl",
        without_rights=True,
    ),
    _seen(
        "config_missing", "missing_file", "import yaml; yaml.safe_load(open('config/train.yaml'))"
    ),
    _seen(
        "recipe_missing",
        "missing_file",
        "#!/bin/bash\ncd {work}; tell fit recipes/mine.yaml --out out",
    ),
    _seen("numpy_missing", "missing_file", "import numpy; numpy.loadtxt('weights.txt')"),
    _seen(
        "config_model_missing",
        "missing_model",
        "import os\nos.environ['HF_HUB_OFFLINE'] = '1'\nfrom transformers import AutoConfig\nAutoConfig.from_pretrained('acme/private-7b')",
    ),
    _seen(
        "gguf_missing",
        "missing_model",
        "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out out --set model=./big.gguf",
    ),
    _seen(
        "snapshot_forbidden",
        "no_access",
        _hub(401)
        .replace("AutoModelForCausalLM.from_pretrained('acme/large')", "")
        .replace(
            "from transformers import AutoModelForCausalLM",
            "from huggingface_hub import hf_hub_download; hf_hub_download('acme/large', 'config.json', token='wrong')",
        ),
    ),
    _seen(
        "proxy_down",
        "network",
        "import os\nos.environ['http_proxy'] = 'http://127.0.0.1:9'\nimport requests; requests.get('http://hub.acme.example/m')",
    ),
    _seen(
        "http_500",
        "network",
        "import http.server, threading, urllib.request\n"
        + _hub(500).split("import http.server, os, threading")[1].split("os.environ[")[0]
        + "urllib.request.urlopen(f'http://127.0.0.1:{server.server_port}/m')",
    ),
    _seen(
        "chunk_cut",
        "network",
        "import socket, threading, requests\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\ndef serve():\n    c, _ = s.accept(); c.recv(999); c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 99\\r\\n\\r\\nabc'); c.close()\nthreading.Thread(target=serve, daemon=True).start()\nrequests.get(f'http://127.0.0.1:{s.getsockname()[1]}/m').content",
    ),
    _seen(
        "tell_csv_broken",
        "bad_data",
        "#!/bin/bash\ncd {work}; printf 'prompt,completion\\n\"a,b\\n' > t.csv; tell fit recipe.yaml --out out --set task.train=t.csv",
    ),
    _seen(
        "json_utf16",
        "bad_data",
        "import json\nopen('{work}/u.json', 'wb').write('[1]'.encode('utf-16'))\njson.loads(open('{work}/u.json', encoding='utf-8').read())",
    ),
    _seen("arrow_types", "bad_data", "import pyarrow as pa; pa.array([1, 'a', 2.5])"),
    _seen(
        "no_rows",
        "bad_data",
        "from datasets import load_dataset\nopen('{work}/e.jsonl', 'w').close()\nload_dataset('json', data_files='{work}/e.jsonl')",
    ),
    _seen(
        "eigh_nan", "diverged", "import numpy; numpy.linalg.eigvals(numpy.full((3, 3), numpy.inf))"
    ),
    _seen(
        "nan_raise",
        "diverged",
        "loss = float('nan')\nif loss != loss: raise RuntimeError('NaN loss at step 300, stopping')",
    ),
    _seen(
        "normal_nan",
        "diverged",
        "import torch\ntorch.distributions.Normal(torch.tensor(float('nan')), 1.0)",
    ),
    _seen(
        "choice_wrong",
        "configuration",
        "import argparse\np = argparse.ArgumentParser('train.py'); p.add_argument('--dtype', choices=['bf16', 'fp32'])\np.parse_args(['--dtype', 'fp64'])",
    ),
    _seen("toml_broken", "configuration", "import tomllib; tomllib.loads('[train\\nrate = 1')"),
    _seen(
        "type_of_argument",
        "configuration",
        "import argparse\np = argparse.ArgumentParser('train.py'); p.add_argument('--steps', type=int)\np.parse_args(['--steps', 'many'])",
    ),
    _seen(
        "study_wrong",
        "configuration",
        "#!/bin/bash\ncd {work}; echo 'recipe: recipe.yaml' > s.yaml; echo 'methods: [tel]' >> s.yaml; echo 'sizes: [300]' >> s.yaml; tell study s.yaml --out out",
    ),
    _seen("tensorflow_missing", "missing_package", "import tensorflow as tf"),
    _seen("submodule_missing", "missing_package", "from torch.distributed.everything import magic"),
    _seen("bash_python3_12", "missing_package", "#!/bin/bash\naccelerate-launch-all train.py"),
    _seen("cuda_stream", "gpu_mismatch", "import torch; torch.ones(3).cuda()"),
    _seen("pin_memory", "gpu_mismatch", "import torch; torch.cuda.synchronize()"),
    _seen(
        "conv_shape",
        "shape_mismatch",
        "import torch; torch.nn.Conv1d(4, 2, 3)(torch.ones(1, 5, 9))",
    ),
    _seen(
        "einsum_shape",
        "shape_mismatch",
        "import torch; torch.einsum('ij,jk->ik', torch.ones(2, 3), torch.ones(4, 5))",
    ),
    _seen(
        "adapter_shapes",
        "shape_mismatch",
        "import torch\nfrom torch import nn\nmodel = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))\nstate = {k: v[:-1] for k, v in model.state_dict().items()}\nmodel.load_state_dict(state)",
    ),
    _seen(
        "bz2_cut",
        "corrupt_file",
        "import bz2; bz2.decompress(bz2.compress(b'x' * 999)[:-9] + b'zzzzzzzzz')",
    ),
    _seen(
        "npz_cut",
        "corrupt_file",
        "import numpy\nopen('{work}/x.npy', 'wb').write(b'junk' * 9)\nnumpy.load('{work}/x.npy')",
    ),
    _seen(
        "mkstemp_files",
        "open_files",
        "#!/bin/bash\nulimit -n 30; python -c 'import tempfile; p=[tempfile.TemporaryFile() for _ in range(40)]'",
    ),
    _seen("attribute_none", "programming_error", "model = None\nmodel.train()"),
    _seen("unbound", "programming_error", "def f():\n    x += 1\nf()"),
    _seen("unpack", "programming_error", "a, b = [1, 2, 3]"),
    _seen(
        "leaf_in_place",
        "programming_error",
        "import torch\nx = torch.ones(3, requires_grad=True); x += 1",
    ),
    _seen(
        "thread_interrupted",
        "interrupted",
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfrom concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as p:\n    f = p.submit(time.sleep, 1); signal.raise_signal(signal.SIGINT); f.result()",
    ),
    # Held apart: written after the rules, and read for the table only.
    _apart(
        "bytearray_memory",
        "out_of_memory",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\nopen('{work}/z', 'wb').write(bytearray(2**31))",
    ),
    _apart(
        "gradient_memory",
        "out_of_memory",
        "import resource, torch\nfrom torch import nn\nresource.setrlimit(resource.RLIMIT_AS, (5 * 2**30, 5 * 2**30))\nm = nn.Linear(9000, 9000); x = torch.ones(90000, 9000)\nm(x).sum().backward()",
    ),
    _apart("peer_killed", "killed", _two(821, "os.kill(os.getpid(), 9)")),
    _apart(
        "launcher_killed_child",
        "killed",
        '#!/bin/bash\ncd {work}; echo \'import os, sys; os.kill(os.getpid(), 9) if os.environ["RANK"] == "1" else __import__("time").sleep(9)\' > w.py\ntorchrun --nproc-per-node 2 --master-port 29822 w.py',
    ),
    _apart(
        "bash_terminated",
        "preempted",
        "#!/bin/bash\nbash -c 'python -c \"import os,signal; os.kill(os.getpid(), signal.SIGTERM)\"; true'",
    ),
    _apart(
        "wait_for_timeout",
        "time_limit",
        "#!/bin/bash\ntimeout -v -k 1 2 python -c 'import time; time.sleep(20)'",
    ),
    _apart(
        "scatter_lost",
        "communication",
        _two(823, "os._exit(0)").replace(
            "dist.all_reduce(torch.ones(4))", "dist.broadcast(torch.ones(4), 1)"
        ),
    ),
    _apart(
        "store_unreachable",
        "communication",
        "import datetime, torch.distributed as dist\ndist.TCPStore('127.0.0.1', 29824, 2, False, timeout=datetime.timedelta(seconds=3))",
    ),
    _apart("peer_shape", "shape_mismatch", _two(825, "torch.ones(2, 3).view(5)")),
    _apart(
        "peer_setting",
        "configuration",
        _two(
            826,
            "sys.argv.append('--lr'); __import__('argparse').ArgumentParser('t').parse_args(['--lr', '1'])",
        ),
    ),
    _apart(
        "rsync_disk_full",
        "disk_full",
        "import shutil\nopen('{work}/big', 'wb').write(bytes(2**22))\nshutil.copy('{work}/big', '{small}/big')",
    ),
    _apart(
        "json_disk_full",
        "disk_full",
        "import json\nwith open('{small}/r.json', 'w') as f: json.dump(['x' * 99] * 99999, f)",
    ),
    _apart(
        "touch_without_rights",
        "permission",
        "import pathlib; pathlib.Path('{work}/locked/done').touch()",
        without_rights=True,
    ),
    _apart("cd_without_rights", "permission", "#!/bin/bash\ncd {work}/locked", without_rights=True),
    _apart(
        "parquet_missing",
        "missing_file",
        "import pyarrow.parquet as p; p.read_table('rows.parquet')",
    ),
    _apart("chdir_missing", "missing_file", "import os; os.chdir('experiments/7')"),
    _apart("tell_test_missing", "missing_file", _TELL + "--set task.test=later.jsonl"),
    _apart(
        "bert_as_decoder",
        "missing_model",
        "#!/bin/bash\ncd {work}; mkdir m; echo '{}' > m/config.json; tell fit recipe.yaml --out out --set model=./m",
    ),
    _apart(
        "weights_not_there",
        "missing_model",
        "#!/bin/bash\ncd {work}; rm model/model.safetensors; python -c \"from transformers import AutoModelForCausalLM as A; A.from_pretrained('./model')\"",
    ),
    _apart(
        "http_403",
        "no_access",
        "import http.server, threading, urllib.request\n"
        + _hub(403).split("import http.server, os, threading")[1].split("os.environ[")[0]
        + "urllib.request.urlopen(f'http://127.0.0.1:{server.server_port}/m')",
    ),
    _apart("hub_500", "network", _hub(500)),
    _apart(
        "requests_dns", "network", "import requests; requests.get('https://weights.acme.invalid/m')"
    ),
    _apart(
        "port_of_store",
        "address_in_use",
        "import socket\nfrom http.server import ThreadingHTTPServer, SimpleHTTPRequestHandler as H\na = ThreadingHTTPServer(('127.0.0.1', 29827), H)\nb = socket.create_server(('127.0.0.1', 29827))",
    ),
    _apart(
        "pandas_json",
        "bad_data",
        'import io, pandas; pandas.read_json(io.StringIO(\'{"a": 1}\\n{"a": }\\n\'), lines=True)',
    ),
    _apart(
        "numpy_text", "bad_data", "import io, numpy; numpy.loadtxt(io.StringIO('1 2\\n3 x\\n'))"
    ),
    _apart(
        "tell_long",
        "bad_data",
        "#!/bin/bash\ncd {work}; python -c \"import json; print(json.dumps({'prompt': 'a b c ' * 900, 'completion': 'x'}))\" > l.jsonl; tell fit recipe.yaml --out out --set task.train=l.jsonl",
    ),
    _apart(
        "gradient_infinite",
        "diverged",
        "import torch\nfrom torch import nn\np = nn.Parameter(torch.ones(2)); p.grad = torch.tensor([float('inf'), 1.0])\nnn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)",
    ),
    _apart(
        "scipy_nan",
        "diverged",
        "import numpy, scipy.linalg; scipy.linalg.inv(numpy.full((2, 2), numpy.nan))",
    ),
    _apart(
        "int_setting",
        "configuration",
        "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out out --set training.batch_size=0",
    ),
    _apart(
        "method_unknown",
        "configuration",
        "#!/bin/bash\ncd {work}; tell fit recipe.yaml --out out --set method=telll",
    ),
    _apart("relative_import", "missing_package", "from transformers.models.gpt99 import GPT99"),
    _apart("interpreter_missing", "missing_package", "#!/bin/bash\nwandb login"),
    _apart("device_nonsense", "gpu_mismatch", "import torch; torch.cuda.current_device()"),
    _apart(
        "linear_cast",
        "shape_mismatch",
        "import torch; torch.nn.functional.mse_loss(torch.ones(3, 2), torch.ones(4, 5)) ",
    ),
    _apart("gather_index", "shape_mismatch", "import torch; torch.ones(3, 4)[:, 9]"),
    _apart(
        "lzma_wrong", "corrupt_file", "import lzma; lzma.decompress(b'hello there, this is text')"
    ),
    _apart(
        "safetensors_garbage",
        "corrupt_file",
        "from safetensors.torch import load_file\nopen('{work}/g.safetensors', 'wb').write(b'garbage!' * 99)\nload_file('{work}/g.safetensors')",
    ),
    _apart(
        "epoll_files",
        "open_files",
        "#!/bin/bash\nulimit -n 30; python -c 'import asyncio; l=[asyncio.new_event_loop() for _ in range(30)]'",
    ),
    _apart(
        "manager_shared_memory",
        "shared_memory",
        "#!/bin/bash\nunshare -m bash -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm; python -c \"import torch; [torch.ones(99999).share_memory_() for _ in range(9)]\"'",
    ),
    _apart("missing_argument", "programming_error", "def f(a, b): return a\nf(1)"),
    _apart("bad_cast", "programming_error", "int('seven')"),
    _apart(
        "method_missing",
        "programming_error",
        "from transformers import AutoConfig\nAutoConfig.from_pretrained('{work}/model').no_such_thing",
    ),
    _apart(
        "detached",
        "programming_error",
        "import torch\nwith torch.no_grad(): y = torch.ones(1, requires_grad=True) * 2\ny.backward()",
    ),
    _apart(
        "loop_interrupted",
        "interrupted",
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfor i in range(3):\n    print('step', i, flush=True)\n    if i == 1: signal.raise_signal(signal.SIGINT)",
    ),
)
