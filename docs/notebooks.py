"""Execute the notebooks of examples/ in a folder with results, with outputs: `python docs/notebooks.py FOLDER`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE_S = 600


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs that it has in a folder with results.

    Raises:
        CellExecutionError: a cell fails.
    """
    node = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:  # no port is opened; a relative path would mean the kernel's folder
        kernel = KernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        NotebookClient(node, km=kernel, timeout=PATIENCE_S, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in node.cells:
        cell.metadata.pop("execution", None)  # times of day, which would differ in every renewal
        if "outputs" in cell:  # libraries' warnings, which name places of this machine
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    node.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return node


if __name__ == "__main__":
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        nbformat.write(executed(path, Path(sys.argv[1]).resolve()), path)
