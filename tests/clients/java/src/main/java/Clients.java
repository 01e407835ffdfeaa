import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * The Java client jetcd against a running Quorate of three nodes: a list of facts, one line each.
 *
 * <p>Started by {@code cargo xtask clients}, which tells the endpoints in ENDPOINTS and, asked by a line on standard output,
 * kills a node and starts it again.
 */
public final class Clients {
    private static final String[] ENDPOINTS = System.getenv("ENDPOINTS").split(",");
    private static final BufferedReader ANSWERS = new BufferedReader(new InputStreamReader(System.in));
    /** Longest wait for anything, in seconds; far more than it takes on a busy machine. */
    private static final int PATIENCE = 60;

    private interface Fact {
        void check(Client client) throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Fact> facts = new LinkedHashMap<>();
        facts.put("keys are put, read by prefix, page and revision, and deleted", Clients::keys);
        facts.put("a transaction compares and takes one of its branches", Clients::transactions);
        facts.put("a compacted revision is refused with code and text", Clients::compaction);
        facts.put("a watch tells changes in order, from the past, with former values", Clients::watches);
        facts.put("a lease is kept alive, and takes its keys along when revoked", Clients::leases);
        facts.put("the lock service excludes and passes on", Clients::locks);
        facts.put("the election service has one leader at a time and tells observers", Clients::elections);
        facts.put("members, status and hashes are told", Clients::maintenance);
        facts.put("a watch goes on after every node was killed once", Clients::watchGoesOn);
        facts.put("users act by their roles", Clients::auth);
        boolean failed = false;
        for (Map.Entry<String, Fact> fact : facts.entrySet()) {
            try (Client client = connect(null)) {
                fact.getValue().check(client);
                System.out.println("ok " + fact.getKey());
            } catch (Exception | AssertionError error) {
                failed = true;
                String place = Arrays.stream(error.getStackTrace()).filter(frame -> frame.getClassName().equals("Clients"))
                        .findFirst().map(StackTraceElement::toString).orElse("");
                System.out.println("failed " + fact.getKey() + ": " + error + " " + place);
            }
        }
        System.exit(failed ? 1 : 0);
    }

    private static Client connect(String user) {
        var urls = Arrays.stream(ENDPOINTS).map(endpoint -> "http://" + endpoint).toArray(String[]::new);
        var builder = Client.builder().endpoints(urls);
        return user == null ? builder.build() : builder.user(text(user)).password(text("pw")).build();
    }

    private static ByteSequence text(String text) {
        return ByteSequence.from(text.getBytes());
    }

    private static <T> T answer(CompletableFuture<T> asked) throws Exception {
        return asked.get(PATIENCE, TimeUnit.SECONDS);
    }

    private static void equal(Object got, Object wanted) {
        if (!got.equals(wanted)) {
            throw new AssertionError(got + " is not " + wanted);
        }
    }

    private static <T> void refused(CompletableFuture<T> asked, String why) {
        try {
            answer(asked);
        } catch (Exception error) {
            if (String.valueOf(error.getMessage()).contains(why)) {
                return;
            }
            throw new AssertionError(error.getMessage() + " is not " + why);
        }
        throw new AssertionError("not refused with " + why);
    }

    /** Has the runner do something to a node, and waits until it is done. */
    private static void ask(String what, String endpoint) throws Exception {
        System.out.println(what + " " + endpoint);
        equal(String.valueOf(ANSWERS.readLine()), "done");
    }

    private static void keys(Client client) throws Exception {
        var kv = client.getKVClient();
        long first = answer(kv.put(text("kv/a"), text("1"))).getHeader().getRevision();
        var again = answer(kv.put(text("kv/a"), text("2"), PutOption.builder().withPrevKV().build()));
        equal(again.getPrevKv().getValue(), text("1"));
        answer(kv.put(text("kv/b"), text("3")));
        var page = answer(kv.get(text("kv/"), GetOption.builder().isPrefix(true).withLimit(1)
                .withSortField(GetOption.SortTarget.KEY).withSortOrder(GetOption.SortOrder.DESCEND).build()));
        equal(page.getKvs().get(0).getKey(), text("kv/b"));
        equal(page.getCount(), 2L);
        equal(page.isMore(), true);
        var past = answer(kv.get(text("kv/a"), GetOption.builder().withRevision(first).build()));
        equal(past.getKvs().get(0).getValue(), text("1"));
        equal(answer(kv.delete(text("kv/"), DeleteOption.builder().isPrefix(true).build())).getDeleted(), 2L);
    }

    private static void transactions(Client client) throws Exception {
        var kv = client.getKVClient();
        for (boolean first : new boolean[] {true, false}) {
            var done = answer(kv.txn().If(new Cmp(text("txn"), Cmp.Op.EQUAL, CmpTarget.version(0)))
                    .Then(Op.put(text("txn"), text("1"), PutOption.DEFAULT))
                    .Else(Op.get(text("txn"), GetOption.DEFAULT)).commit());
            equal(done.isSucceeded(), first);
            equal(done.getGetResponses().size(), first ? 0 : 1);
        }
        var twice = kv.txn().Then(Op.put(text("txn"), text("1"), PutOption.DEFAULT),
                Op.put(text("txn"), text("2"), PutOption.DEFAULT)).commit();
        refused(twice, "etcdserver: duplicate key given in txn request");
    }

    private static void compaction(Client client) throws Exception {
        var kv = client.getKVClient();
        long old = answer(kv.put(text("compact"), text("1"))).getHeader().getRevision();
        long kept = answer(kv.put(text("compact"), text("2"))).getHeader().getRevision();
        answer(kv.compact(kept));
        refused(kv.get(text("compact"), GetOption.builder().withRevision(old).build()),
                "etcdserver: mvcc: required revision has been compacted");
        var ended = new CompletableFuture<Void>();
        try (var watcher = client.getWatchClient().watch(text("compact"), WatchOption.builder().withRevision(old).build(),
                told -> { }, ended::completeExceptionally)) {
            refused(ended, "etcdserver: mvcc: required revision has been compacted");
        }
    }

    /** Events as they come, in words. */
    private static Watch.Watcher watch(Client client, String key, long revision, BlockingQueue<String> seen) {
        var option = WatchOption.builder().withRevision(revision).withPrevKV(true).build();
        return client.getWatchClient().watch(text(key), option, told -> told.getEvents().forEach(event -> seen.add(
                event.getEventType() + " " + event.getKeyValue().getValue() + " was " + event.getPrevKV().getValue())),
                // A lost connection is told, and the watch taken up again.
                error -> { });
    }

    private static void watches(Client client) throws Exception {
        var kv = client.getKVClient();
        long first = answer(kv.put(text("watch"), text("1"))).getHeader().getRevision();
        BlockingQueue<String> seen = new LinkedBlockingQueue<>();
        try (var watcher = watch(client, "watch", first, seen)) {
            answer(kv.put(text("watch"), text("2")));
            answer(kv.delete(text("watch")));
            List<String> told = new ArrayList<>();
            for (int n = 0; n < 3; n++) {
                told.add(String.valueOf(seen.poll(PATIENCE, TimeUnit.SECONDS)));
            }
            equal(told, List.of("PUT 1 was ", "PUT 2 was 1", "DELETE  was 2"));
        }
    }

    private static void watchGoesOn(Client client) throws Exception {
        BlockingQueue<String> seen = new LinkedBlockingQueue<>();
        long first = answer(client.getKVClient().put(text("resume"), text("before"))).getHeader().getRevision();
        try (var watcher = watch(client, "resume", first, seen)) {
            equal(String.valueOf(seen.poll(PATIENCE, TimeUnit.SECONDS)), "PUT before was ");
            for (String endpoint : ENDPOINTS) {
                ask("kill", endpoint);
                ask("restart", endpoint);
            }
            answer(client.getKVClient().put(text("resume"), text("after")));
            equal(String.valueOf(seen.poll(PATIENCE, TimeUnit.SECONDS)), "PUT after was before");
        }
    }

    private static void leases(Client client) throws Exception {
        var leases = client.getLeaseClient();
        long id = answer(leases.grant(600)).getID();
        answer(client.getKVClient().put(text("lease"), text("1"), PutOption.builder().withLeaseId(id).build()));
        equal(answer(leases.keepAliveOnce(id)).getTTL(), 600L);
        var left = answer(leases.timeToLive(id, LeaseOption.builder().withAttachedKeys().build()));
        equal(left.getKeys(), List.of(text("lease")));
        answer(leases.revoke(id));
        equal(answer(client.getKVClient().get(text("lease"))).getCount(), 0L);
        refused(leases.revoke(id), "etcdserver: requested lease not found");
    }

    private static void locks(Client client) throws Exception {
        var leases = client.getLeaseClient();
        long first = answer(leases.grant(600)).getID();
        long second = answer(leases.grant(600)).getID();
        ByteSequence held = answer(client.getLockClient().lock(text("lock"), first)).getKey();
        var waiting = client.getLockClient().lock(text("lock"), second);
        answer(client.getLockClient().unlock(held));
        ByteSequence next = answer(waiting).getKey();
        equal(answer(client.getKVClient().get(next)).getKvs().get(0).getLease(), second);
        answer(leases.revoke(second));
        equal(answer(client.getKVClient().get(next)).getCount(), 0L);
    }

    private static void elections(Client client) throws Exception {
        var leases = client.getLeaseClient();
        Election election = client.getElectionClient();
        ByteSequence name = text("election");
        BlockingQueue<String> seen = new LinkedBlockingQueue<>();
        election.observe(name, new Election.Listener() {
            @Override
            public void onNext(LeaderResponse told) {
                seen.add(told.getKv().getValue().toString());
            }

            @Override
            public void onError(Throwable error) {
                seen.add(error.toString());
            }

            @Override
            public void onCompleted() { }
        });
        var first = answer(election.campaign(name, answer(leases.grant(600)).getID(), text("first")));
        equal(String.valueOf(seen.poll(PATIENCE, TimeUnit.SECONDS)), "first");
        var second = election.campaign(name, answer(leases.grant(600)).getID(), text("second"));
        answer(election.proclaim(first.getLeader(), text("still")));
        equal(String.valueOf(seen.poll(PATIENCE, TimeUnit.SECONDS)), "still");
        answer(election.resign(first.getLeader()));
        answer(election.resign(answer(second).getLeader()));
        equal(String.valueOf(seen.poll(PATIENCE, TimeUnit.SECONDS)), "second");
        refused(election.proclaim(first.getLeader(), text("late")), "NotLeaderException");
    }

    private static void maintenance(Client client) throws Exception {
        equal(answer(client.getClusterClient().listMember()).getMembers().size(), 3);
        equal(answer(client.getMaintenanceClient().listAlarms()).getAlarms().size(), 0);
        for (String endpoint : ENDPOINTS) {
            var status = answer(client.getMaintenanceClient().statusMember("http://" + endpoint));
            equal(status.getVersion().startsWith("3.7."), true);
            answer(client.getMaintenanceClient().hashKV("http://" + endpoint, 0));
        }
    }

    private static void auth(Client client) throws Exception {
        var auth = client.getAuthClient();
        for (String[] pair : new String[][] {{"root", "root"}, {"u", "r"}}) {
            answer(auth.userAdd(text(pair[0]), text("pw")));
            answer(auth.roleAdd(text(pair[1])));
            answer(auth.userGrantRole(text(pair[0]), text(pair[1])));
        }
        answer(auth.roleGrantPermission(text("r"), text("auth/"), text("auth0"), Permission.Type.READWRITE));
        answer(auth.authEnable());
        try (Client root = connect("root"); Client user = connect("u")) {
            try {
                answer(user.getKVClient().put(text("auth/a"), text("1")));
                refused(user.getKVClient().put(text("secret"), text("1")), "etcdserver: permission denied");
                answer(root.getAuthClient().roleGrantPermission(text("r"), text("other"), text("other0"),
                        Permission.Type.READWRITE));
                answer(user.getKVClient().put(text("other"), text("1")));
            } finally {
                answer(root.getAuthClient().authDisable());
            }
        }
    }
}
