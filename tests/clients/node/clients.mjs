// The JavaScript client `etcd3` against a running Quorate of three nodes: a list of facts, one line each.
//
// Started by `cargo xtask clients`, which tells the endpoints in ENDPOINTS and, asked by a line on standard output, kills a
// node and starts it again.

import assert from "node:assert/strict";
import { once } from "node:events";
import readline from "node:readline";
import { Etcd3, EtcdLockFailedError, EtcdPermissionDeniedError, EtcdAuthenticationFailedError } from "etcd3";

const endpoints = process.env.ENDPOINTS.split(",");
const answers = readline.createInterface({ input: process.stdin });
// Longest wait for anything; far more than it takes on a busy machine.
const PATIENCE_MS = 60_000;

const connect = (options) => new Etcd3({ hosts: endpoints.map((endpoint) => `http://${endpoint}`), ...options });

/// Has the runner do something to a node, and waits until it is done.
async function ask(what, endpoint) {
  console.log(`${what} ${endpoint}`);
  const [answer] = await once(answers, "line");
  assert.equal(answer, "done");
}

/// The first `count` events of a watch, in words.
function take(watcher, count) {
  const seen = [];
  return new Promise((resolve, reject) => {
    const note = (line) => {
      seen.push(line);
      if (seen.length === count) resolve(seen);
    };
    watcher.on("put", (kv, previous) => note(`put ${kv.key}=${kv.value}${previous ? ` was ${previous.value}` : ""}`));
    watcher.on("delete", (kv, previous) => note(`delete ${kv.key}${previous ? ` was ${previous.value}` : ""}`));
    watcher.on("error", reject);
  });
}

async function keys(client) {
  await client.put("kv/a").value("1");
  const { header } = await client.put("kv/a").value("2").exec();
  await client.put("kv/b").value("3");
  assert.equal(await client.get("kv/a").string(), "2");
  assert.equal(await client.get("kv/a").revision(header.revision - 1).string(), "1");
  assert.deepEqual(await client.getAll().prefix("kv/").strings(), { "kv/a": "2", "kv/b": "3" });
  assert.deepEqual(await client.getAll().prefix("kv/").sort("Key", "Descend").limit(1).keys(), ["kv/b"]);
  assert.equal(await client.getAll().prefix("kv/").count(), 2);
  const deleted = await client.delete().prefix("kv/").getPrevious();
  assert.deepEqual(deleted.map((kv) => kv.value.toString()), ["2", "3"]);
  assert.equal(await client.get("kv/a").exists(), false);
}

async function transactions(client) {
  const create = () =>
    client.if("txn", "Create", "==", 0).then(client.put("txn").value("1")).else(client.get("txn")).commit();
  assert.equal((await create()).succeeded, true);
  const second = await create();
  assert.equal(second.succeeded, false);
  assert.equal(second.responses[0].response_range.kvs[0].value.toString(), "1");
  const workers = Array.from({ length: 4 }, () =>
    client.stm({ retries: 100 }).transact(async (tx) => {
      const old = (await tx.get("stm").string()) ?? "";
      await tx.put("stm").value(`${old}x`);
    }),
  );
  await Promise.all(workers);
  assert.equal(await client.get("stm").string(), "xxxx");
}

async function watches(client) {
  const { header } = await client.put("watch/a").value("1").exec();
  const watcher = await client.watch().prefix("watch/").startRevision(header.revision).withPreviousKV().create();
  const seen = take(watcher, 3);
  await client.put("watch/a").value("2");
  await client.delete().key("watch/a");
  assert.deepEqual(await seen, ["put watch/a=1", "put watch/a=2 was 1", "delete watch/a was 2"]);
  await watcher.cancel();
}

async function watchGoesOn(client) {
  // A connection to one node first, so that the watch is there.
  const watcher = await client.watch().key("resume").create();
  const first = take(watcher, 1);
  await client.put("resume").value("before");
  assert.deepEqual(await first, ["put resume=before"]);
  const next = take(watcher, 1);
  for (const endpoint of endpoints) {
    await ask("kill", endpoint);
    await ask("restart", endpoint);
  }
  const other = connect();
  for (let done = false; !done; ) {
    // The connection to a node that was killed is found broken by its first use.
    done = await other.put("resume").value("after").then(() => true, () => false);
  }
  other.close();
  assert.deepEqual(await next, ["put resume=after"]);
  await watcher.cancel();
}

async function leases(client) {
  const lease = client.lease(600, { autoKeepAlive: false });
  await lease.put("lease").value("1");
  assert.equal((await lease.keepaliveOnce()).TTL, "600");
  assert.equal(await client.get("lease").string(), "1");
  await lease.revoke();
  assert.equal(await client.get("lease").string(), null);
}

async function locks(client) {
  const first = await client.lock("lock").ttl(60).acquire();
  await assert.rejects(client.lock("lock").ttl(60).acquire(), EtcdLockFailedError);
  await first.release();
  const second = await client.lock("lock").ttl(60).acquire();
  await second.release();
}

async function elections(client) {
  const election = client.election("election", 60);
  const first = election.campaign("first");
  await first.wait();
  const observer = await election.observe();
  const second = client.election("election", 60).campaign("second");
  assert.equal(await election.leader(), "first");
  const changed = new Promise((resolve) => observer.on("change", (leader) => leader === "second" && resolve()));
  await first.resign();
  await second.wait();
  await changed;
  assert.equal(await election.leader(), "second");
  await second.resign();
  await observer.cancel();
}

async function maintenance(client) {
  const { members } = await client.cluster.memberList({});
  assert.deepEqual(members.map((member) => member.name).sort(), ["n1", "n2", "n3"]);
  const status = await client.maintenance.status();
  assert.match(status.version, /^3\.7\./);
  assert.deepEqual((await client.maintenance.alarm({ action: "Get" })).alarms, []);
}

async function auth(client) {
  await client.user("root").create("pw");
  await client.role("root").create();
  await client.user("root").addRole("root");
  await client.role("r").create();
  await client.role("r").grant({ permission: "Readwrite", range: client.range({ prefix: "auth/" }) });
  await client.user("u").create("pw");
  await client.user("u").addRole("r");
  await client.auth.authEnable();
  const root = connect({ auth: { username: "root", password: "pw" } });
  const user = connect({ auth: { username: "u", password: "pw" } });
  const wrong = connect({ auth: { username: "u", password: "wrong" } });
  try {
    await user.put("auth/a").value("1");
    await assert.rejects(user.put("secret").value("1").exec(), EtcdPermissionDeniedError);
    await assert.rejects(wrong.get("auth/a").string(), EtcdAuthenticationFailedError);
    await root.user("u").removeRole("r");
    await assert.rejects(user.get("auth/a").string(), EtcdPermissionDeniedError);
  } finally {
    await root.auth.authDisable();
    for (const other of [root, user, wrong]) other.close();
  }
}

const facts = [
  ["keys are put, read by prefix, page and revision, and deleted", keys],
  ["transactions compare, and software transactions retry", transactions],
  ["a watch tells changes in order, from the past, with former values", watches],
  ["a lease is kept alive, and takes its keys along when revoked", leases],
  ["a lock excludes until it is released", locks],
  ["an election has one leader at a time and tells observers", elections],
  ["members, status and alarms are told", maintenance],
  ["a watch goes on after every node was killed once", watchGoesOn],
  ["users act by their roles", auth],
];

let failed = false;
for (const [name, check] of facts) {
  const client = connect();
  let alarm;
  const late = new Promise((_, reject) => {
    alarm = setTimeout(() => reject(new Error("took too long")), PATIENCE_MS);
  });
  try {
    await Promise.race([check(client), late]);
    console.log(`ok ${name}`);
  } catch (error) {
    failed = true;
    console.log(`failed ${name}: ${String(error.stack).replaceAll("\n", " | ")}`);
  }
  clearTimeout(alarm);
  client.close();
}
process.exit(failed ? 1 : 0);
