"""Compile the contracts into the artifacts that are committed beside them.

    python -m dai_lab.chain.compile

The compiler is needed here alone; whoever runs a chain reads artifacts.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from dai_lab.chain.hashing import keccak

HERE = Path(__file__).parent
EVM = "cancun"
"""What every source names: the oldest with transient storage, which reentrancy locks live in."""


def compiled(name: str) -> str:
    """Compile a contract to the text of its artifact.

    Selectors and topics are stored, so that nothing which reads an artifact has to hash.

    Args:
        name: Its file in ``contracts/``, without the ending.
    """
    import vyper  # type: ignore[import-untyped]

    source = (HERE / "contracts" / f"{name}.vy").read_text()
    made = vyper.compile_code(source, output_formats=["abi", "bytecode", "method_identifiers"])
    events = [one for one in made["abi"] if one["type"] == "event"]
    topics = {
        one["name"]: f"{one['name']}({','.join(part['type'] for part in one['inputs'])})"
        for one in events
    }
    artifact = {
        "name": name,
        "compiler": f"vyper {vyper.__version__}",
        "evm": EVM,
        "source_sha256": sha256(source.encode()).hexdigest(),
        "selectors": {
            signature.split("(")[0]: selector
            for signature, selector in made["method_identifiers"].items()
        },
        "topics": {one: "0x" + keccak(text.encode()).hex() for one, text in topics.items()},
        "abi": made["abi"],
        "bytecode": made["bytecode"],
    }
    return json.dumps(artifact, indent=1) + "\n"


def main() -> None:
    """Write every contract's artifact."""
    for source in sorted((HERE / "contracts").glob("*.vy")):
        target = HERE / "artifacts" / f"{source.stem}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(compiled(source.stem))


if __name__ == "__main__":
    main()
