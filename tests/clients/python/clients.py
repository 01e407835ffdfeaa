"""The Python client `etcd-sdk-python` against a running Quorate of three nodes: a list of facts, one line each.

Started by `cargo xtask clients`, which tells the endpoints in ENDPOINTS.
"""

import os
import sys
import threading

import grpc
import pyetcd

ENDPOINTS = [endpoint.rsplit(":", 1) for endpoint in os.environ["ENDPOINTS"].split(",")]
# Longest wait for anything; far more than it takes on a busy machine.
PATIENCE = 60


def connect(node=0):
    host, port = ENDPOINTS[node]
    return pyetcd.client(host=host, port=int(port), timeout=PATIENCE)


def code(call):
    """The gRPC code and text with which a call is refused."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("was not refused")


def keys(client):
    client.put("kv/a", "1")
    client.put("kv/b", "2")
    value, about = client.get("kv/a")
    assert (value, about.version) == (b"1", 1), (value, about.version)
    ordered = [value for value, _ in client.get_prefix("kv/", sort_order="descend")]
    assert ordered == [b"2", b"1"], ordered
    elsewhere, _ = connect(1).get("kv/b")
    assert elsewhere == b"2", elsewhere
    assert client.delete("kv/a") and not client.delete("kv/a")
    assert client.delete_prefix("kv/").deleted == 1
    assert client.get("kv/b") == (None, None)


def transactions(client):
    assert client.put_if_not_exists("txn", "1") and not client.put_if_not_exists("txn", "2")
    assert client.replace("txn", "1", "3") and not client.replace("txn", "1", "4")
    do = client.transactions
    done, answers = client.transaction(
        compare=[do.version("txn") == 2, do.value("txn") == "3"],
        success=[do.get("txn"), do.delete("txn")],
        failure=[do.put("txn", "wrong")],
    )
    assert done and answers[0][0][0] == b"3", answers


def refusals(client):
    assert code(lambda: client.get("")) == ("INVALID_ARGUMENT", "etcdserver: key is not provided")
    written = client.put("refusals", "1").header.revision
    client.put("refusals", "2")
    client.compact(written + 1)
    text = "etcdserver: mvcc: required revision has been compacted"
    assert code(lambda: client.compact(written)) == ("OUT_OF_RANGE", text)
    try:
        list(client.watch_response("refusals", start_revision=written)[0])
        raise AssertionError("a watch of a compacted revision goes on")
    except pyetcd.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision == written + 1, error.compacted_revision


def watches(client):
    events, cancel = client.watch_prefix("watch/", prev_kv=True)
    client.put("watch/a", "1")
    client.put("watch/a", "2")
    client.delete("watch/a")
    seen = []
    for event in events:
        seen.append((type(event).__name__, event.value, event.prev_value))
        if len(seen) == 3:
            cancel()
    wanted = [("PutEvent", b"1", b""), ("PutEvent", b"2", b"1"), ("DeleteEvent", b"", b"2")]
    assert seen == wanted, seen


def leases(client):
    lease = client.lease(600)
    client.put("lease", "1", lease=lease)
    assert lease.granted_ttl == 600 and 0 < lease.remaining_ttl <= 600
    assert lease.keys == [b"lease"], lease.keys
    assert [answer.TTL for answer in lease.refresh()] == [600]
    lease.revoke()
    assert client.get("lease") == (None, None)


def locks(client):
    other = connect(1)
    first, second = client.lock("lock", ttl=60), other.lock("lock", ttl=60)
    assert first.acquire(timeout=PATIENCE) and not second.acquire(timeout=0)
    waiting = threading.Thread(target=second.acquire, args=(PATIENCE,))
    waiting.start()
    assert first.is_acquired() and first.release()
    waiting.join()
    assert second.is_acquired() and not first.is_acquired()
    assert second.release()


def maintenance(client):
    members = list(client.members)
    assert sorted(member.name for member in members) == ["n1", "n2", "n3"], members
    status = client.status()
    assert status.version.startswith("3.7.") and status.db_size > 0, status.version
    assert status.leader.name in ("n1", "n2", "n3")
    assert list(client.list_alarms()) == []
    client.defragment()
    assert client.hash() >= 0


def auth(client):
    """With the raw calls: this library has none for users, and sends its tokens over encrypted connections only."""
    rpc = pyetcd.etcdrpc
    stub, kv = rpc.AuthStub(client.channel), rpc.KVStub(connect(1).channel)
    for name, role in (("root", "root"), ("u", "r")):
        stub.UserAdd(rpc.AuthUserAddRequest(name=name, password="pw"))
        stub.RoleAdd(rpc.AuthRoleAddRequest(name=role))
        stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=role))
    grant = rpc.AuthRoleGrantPermissionRequest(name="r")
    grant.perm.permType, grant.perm.key = 0, b"auth"
    stub.RoleGrantPermission(grant)
    stub.AuthEnable(rpc.AuthEnableRequest())

    def log_in(name, password):
        return [("token", stub.Authenticate(rpc.AuthenticateRequest(name=name, password=password)).token)]

    try:
        token = log_in("u", "pw")
        assert kv.Range(rpc.RangeRequest(key=b"auth"), metadata=token).count == 0
        put = rpc.PutRequest(key=b"auth", value=b"1")
        assert code(lambda: kv.Put(put, metadata=token)) == ("PERMISSION_DENIED", "etcdserver: permission denied")
        assert code(lambda: client.get("auth")) == ("INVALID_ARGUMENT", "etcdserver: user name is empty")
        wrong = "etcdserver: authentication failed, invalid user ID or password"
        assert code(lambda: log_in("u", "no")) == ("INVALID_ARGUMENT", wrong)
    finally:
        stub.AuthDisable(rpc.AuthDisableRequest(), metadata=log_in("root", "pw"))


FACTS = [
    ("keys are put, read by prefix at any node, and deleted", keys),
    ("a transaction compares and takes one of its branches", transactions),
    ("what is refused is refused with code and text", refusals),
    ("a watch tells changes in order with former values", watches),
    ("a lease is kept alive, and takes its keys along when revoked", leases),
    ("a lock of the library excludes and passes on", locks),
    ("members, status and hash are told", maintenance),
    ("users act by their roles", auth),
]


def main():
    failed = False
    for name, check in FACTS:
        client = connect()
        try:
            check(client)
            print(f"ok {name}", flush=True)
        except Exception as error:  # whatever it is, the fact does not hold
            failed = True
            print(f"failed {name}: {type(error).__name__}: {error}", flush=True)
        client.close()
    # Watchers of the library keep threads of their own, which would wait.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
