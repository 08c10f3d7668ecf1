"""What is committed is what the sources say, and a token that is a trap catches nobody."""

import re
from pathlib import Path

import pytest

from dai_lab.chain import Reverted, embedded
from dai_lab.chain.abi import codec
from dai_lab.chain.artifacts import artifact
from dai_lab.chain.compile import compiled

FOLDER = Path(__file__).parents[2] / "dai_lab" / "chain"
NAMES = sorted(one.stem for one in (FOLDER / "contracts").glob("*.vy"))
TRAP = """
# pragma version 0.4.3
# pragma evm-version cancun
refusing: public(bool)
target: address
bite: Bytes[1024]
bitten: public(bool)

@external
def arm(target: address, bite: Bytes[1024], refusing: bool):
    self.target = target
    self.bite = bite
    self.refusing = refusing

@external
def act(target: address, content: Bytes[1024]):
    raw_call(target, content)

@internal
def _bite() -> bool:
    if len(self.bite) != 0:
        self.bitten = raw_call(self.target, self.bite, revert_on_failure=False)
    return not self.refusing

@external
def transfer(payee: address, amount: uint256) -> bool:
    return self._bite()

@external
def transferFrom(payer: address, payee: address, amount: uint256) -> bool:
    return self._bite()
"""
NOBODY, SOME, LATE = "0x" + "11" * 20, b"s" * 32, 1 << 40


def test_there_are_nine_contracts():
    assert len(NAMES) == 9
    assert sorted(one.stem for one in (FOLDER / "artifacts").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_contract_compiles_to_what_is_committed_byte_for_byte(name):
    assert compiled(name) == (FOLDER / "artifacts" / f"{name}.json").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_no_contract_leaves_a_payment_unchecked_or_a_door_open(name):
    source = (FOLDER / "contracts" / f"{name}.vy").read_text()
    calls = len(re.findall("extcall", source))
    checked = re.findall(
        rf'assert extcall [^"]*default_return_value=True\s*\), "{name}: payment failed"', source
    )
    assert len(checked) == calls
    # Who pays, locks; nothing takes ether, nothing calls what it does not know.
    external = source.split("@external")[1:]
    assert all("@nonreentrant" in one for one in external if "extcall" in one)
    assert not re.findall("payable|raw_call|delegate|selfdestruct|send\\(", source)


def word(kind, *arguments, function):
    """Write a call, as the trap has it."""
    return artifact(kind).functions[function].encode(arguments)


@pytest.fixture(scope="module")
def trap_code():
    import vyper

    return vyper.compile_code(TRAP, output_formats=["bytecode", "method_identifiers"])


class Trap:
    """A token that bites: as it is paid with, it calls the contract again as itself."""

    def __init__(self, code, kind, terms):
        self.chain = embedded()
        self.ann = self.chain.account("ann")
        self.address = self.chain._create(self.ann, bytes.fromhex(code["bytecode"][2:]))
        self.selectors = {
            one.split("(")[0]: bytes.fromhex(selector[2:].rjust(8, "0"))
            for one, selector in code["method_identifiers"].items()
        }
        self.kind = kind
        self.contract = self.chain.deploy(kind, self.address, *terms, sender=self.ann)

    def tell(self, function, types, *arguments):
        data = self.selectors[function] + codec(types).encode(arguments)
        self.chain._execute(self.ann, self.address, data, "trap")

    def arm(self, call=b"", refusing=False):
        self.tell("arm", "(address,bytes,bool)", self.contract.address, call, refusing)

    def act(self, function, *arguments):
        content = word(self.kind, *arguments, function=function)
        self.tell("act", "(address,bytes)", self.contract.address, content)

    def bitten(self):
        found = self.chain._evm.message_call(self.ann, self.address, self.selectors["bitten"])
        return bool(int.from_bytes(found))


GOVERNOR = (60, 60, 60, 0, 1, 1)
MONEY_MOVES = {
    "stake": ((NOBODY, "0x" + "22" * 20, 1), [], ("stake", 5), ("stake", 5)),
    "governor": (GOVERNOR, [], ("lock", 5), ("lock", 5)),
    "channel": ((), [], ("open", NOBODY, 5, LATE), ("open", NOBODY, 5, LATE)),
    "rewards": ((), [], ("fund", SOME, 1, 5, LATE), ("fund", b"t" * 32, 1, 5, LATE)),
    "jobs": (
        (),
        [("createJob", NOBODY, NOBODY, LATE, ""), ("setBudget", 1, 5)],
        ("fund", 1, 5),
        ("fund", 1, 5),
    ),
    "data_registry": ((), [], ("use", "x", SOME, 5), ("use", "x", SOME, 5)),
}


def prepared(code, kind):
    """Bring a contract of which the trap is the token to where the trap is paid with."""
    terms, before, pays, again = MONEY_MOVES[kind]
    trap = Trap(code, kind, terms)
    if kind == "data_registry":
        trap.act("register", SOME, 1, "")
        data = trap.chain.call(trap.contract, "dataset_id", trap.address, SOME)
        before = [("grant", data, trap.address, "x", LATE, 5)]
        pays, again = ((name, data, *rest) for name, *rest in (pays, again))
    for one in before:
        trap.act(*one)
    return trap, pays, again


@pytest.mark.parametrize("kind", MONEY_MOVES)
def test_a_contract_is_not_entered_again_while_it_pays(trap_code, kind):
    trap, pays, again = prepared(trap_code, kind)
    name, *arguments = again
    trap.arm(word(kind, *arguments, function=name))
    trap.act(*pays)
    assert not trap.bitten()
    # What is not locked can be asked meanwhile, so that the trap would have caught somebody.
    trap, pays, _ = prepared(trap_code, kind)
    trap.arm(word(kind, function="token"))
    trap.act(*pays)
    assert trap.bitten()


@pytest.mark.parametrize("kind", MONEY_MOVES)
def test_a_token_that_does_not_pay_undoes_all_of_it(trap_code, kind):
    trap, pays, _ = prepared(trap_code, kind)
    trap.arm(refusing=True)
    said = len(trap.chain.logs(trap.contract))
    with pytest.raises(Reverted, match=f"{kind}: payment failed"):
        trap.act(*pays)
    assert len(trap.chain.logs(trap.contract)) == said
    trap.arm()
    trap.act(*pays)
    assert len(trap.chain.logs(trap.contract)) == said + 1
