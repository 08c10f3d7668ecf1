"""Content addresses are those that IPFS gives to the same bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.storage import Disk, Missing, cid_of, cids

# Made with ipfs-unixfs-importer (npm): bytes, leaf size, links to a node, CID.
PUBLISHED = [
    (0, 1048576, 1024, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    (0, 65536, 3, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    (1, 1048576, 1024, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
    (1, 65536, 3, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
    (11, 1048576, 1024, "bafkreiemzsnsdw4rkkmqgrbtgcu5z7z4uqi4pmlblprnimkvujjqxcwa74"),
    (11, 65536, 3, "bafkreiemzsnsdw4rkkmqgrbtgcu5z7z4uqi4pmlblprnimkvujjqxcwa74"),
    (255, 1048576, 1024, "bafkreictdjrce5d4tdovotk6wq7ndqroeh3jmo3oihjilurduc32otiyra"),
    (255, 65536, 3, "bafkreictdjrce5d4tdovotk6wq7ndqroeh3jmo3oihjilurduc32otiyra"),
    (1048575, 1048576, 1024, "bafkreifazdwobvtwqzffdiviytcvsnzelycn756rjvcou4l5qmxxhgs4ou"),
    (1048575, 65536, 3, "bafybeih3t2tulao4muwkkkx6ukesxmbfnkenw4nzt4vbr532qxwtckpnam"),
    (1048576, 1048576, 1024, "bafkreigxmcoedakckk4mvzuiyr3p2dpka3uruu65ndx75mvoy5qukggxta"),
    (1048576, 65536, 3, "bafybeiffgtnhcx73pcha76egdugf2zocwmy6gh3fufcin4cuf7hce3uzia"),
    (1048577, 1048576, 1024, "bafybeibh5dixlam2rbumstxseteoqy2ohnpjmez2ovti6htjnlfltjwlam"),
    (1048577, 65536, 3, "bafybeiaebohevodskwq2aj5ez3bpp7e3y4jux22vnbjd7m4xw77ngkj524"),
    (3000000, 1048576, 1024, "bafybeig4uz3ryert74h7apqj52rllavielu6oldv2iepjhri7r5dpxpomq"),
    (3000000, 65536, 3, "bafybeicxixotnpau4y4dd6i66udgxzzuamf35el5o76zrve2znuazifg6q"),
    (10485760, 1048576, 1024, "bafybeihldrpv7amkrhz3ulidaoy72adzgvk6jtc6i6nofo45liyjlg6xzy"),
    (10485760, 65536, 3, "bafybeihhbzz4fgdz6q6ja6wjbiqyvijeaqtssmatdieo7zhlsxiqrko4fq"),
    (12000001, 1048576, 1024, "bafybeidtroinucapr2buc7xjnxhgetos4dnnecgwpnypaqwvxbdm5caqca"),
    (12000001, 65536, 3, "bafybeie7pjk5us4wm64ezxgrv2u3bflnr7xzp2pox7oh577e6jegnpj5ae"),
]


def pattern(size):
    at = np.arange(size, dtype=np.int64)
    return ((at * 7 + (at >> 8) * 13 + (at >> 16)) & 255).astype("u1").tobytes()


@pytest.mark.parametrize(("size", "chunk", "count", "cid"), PUBLISHED)
def test_a_cid_is_that_of_ipfs(size, chunk, count, cid, monkeypatch):
    monkeypatch.setattr(cids, "CHUNK", chunk)
    monkeypatch.setattr(cids, "LINKS", count)
    assert cid_of(pattern(size)) == cid


@given(data=st.binary(max_size=300), chunk=st.integers(1, 40), count=st.integers(2, 4))
def test_what_was_put_is_what_one_gets(data, chunk, count, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cids, "CHUNK", chunk)
        patch.setattr(cids, "LINKS", count)
        disk = Disk(tmp_path_factory.mktemp("store"))
        cid = disk.put(data)
        assert disk.put(data) == cid and disk.get(cid) == data and disk.has(cid)


def test_a_block_that_is_lost_or_damaged_is_missed_and_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(cids, "CHUNK", 8)
    disk = Disk(tmp_path)
    cid = disk.put(b"some bytes that fill several blocks")
    victim = tmp_path / next(one for one in disk.blocks() if one.startswith("bafkrei"))
    victim.write_bytes(b"other")
    assert not disk.has(cid)
    with pytest.raises(Missing, match="is damaged"):
        disk.get(cid)
    victim.unlink()
    with pytest.raises(Missing, match="does not hold"):
        disk.get(cid)
    assert disk.put(b"some bytes that fill several blocks") == cid and disk.has(cid)


@pytest.mark.parametrize(
    "name", ["", "../lab.pem", "bafy", "QmRf22bZar3WKmojipms22PkXH1MZGmvsqzQtuSvQE3uhm"]
)
def test_a_name_that_is_no_cid_reads_no_file(name, tmp_path):
    with pytest.raises(ValueError, match="is no CIDv1"):
        Disk(tmp_path).get(name)
    assert not Disk(tmp_path).has(name)


@given(st.binary(max_size=80))
def test_no_bytes_are_taken_for_a_node_by_accident(block):
    try:
        cids.links(block)
    except ValueError as error:
        assert "no node" in str(error)
