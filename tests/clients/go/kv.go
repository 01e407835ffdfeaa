package main

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func (t *tester) put(ctx context.Context, key, value string, options ...clientv3.OpOption) (int64, error) {
	answer, err := t.client.Put(ctx, key, value, options...)
	if err != nil {
		return 0, err
	}
	return answer.Header.Revision, nil
}

func keys(ctx context.Context, t *tester) error {
	var first int64
	for n := 0; n < 5; n++ {
		revision, err := t.put(ctx, fmt.Sprintf("kv/%d", n), fmt.Sprint(n))
		if err != nil {
			return err
		}
		if n == 0 {
			first = revision
		}
	}
	page, err := t.client.Get(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithLimit(2),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return err
	}
	past, err := t.client.Get(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithSerializable())
	if err != nil {
		return err
	}
	counted, err := t.client.Get(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	replaced, err := t.client.Put(ctx, "kv/0", "new", clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	deleted, err := t.client.Delete(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	_, noKey := t.client.Get(ctx, "")
	_, future := t.client.Get(ctx, "kv/0", clientv3.WithRev(deleted.Header.Revision+1000))
	return all(
		equal("length of a page", len(page.Kvs), 2),
		equal("first of a page", string(page.Kvs[0].Key), "kv/4"),
		holds("there is more", page.More),
		equal("count", page.Count, 5),
		equal("count in the past", past.Count, 1),
		equal("count only", counted.Count, 5),
		equal("keys of count only", len(counted.Kvs), 0),
		equal("former value", string(replaced.PrevKv.Value), "0"),
		equal("deleted", deleted.Deleted, 5),
		equal("former values", len(deleted.PrevKvs), 5),
		holds("no key is ErrEmptyKey", errors.Is(noKey, rpctypes.ErrEmptyKey)),
		holds("future is ErrFutureRev", errors.Is(future, rpctypes.ErrFutureRev)),
	)
}

func transactions(ctx context.Context, t *tester) error {
	create := func() (*clientv3.TxnResponse, error) {
		return t.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision("txn/a"), "=", 0)).
			Then(clientv3.OpPut("txn/a", "1"), clientv3.OpGet("txn/a")).
			Else(clientv3.OpGet("txn/a")).Commit()
	}
	first, err := create()
	if err != nil {
		return err
	}
	second, err := create()
	if err != nil {
		return err
	}
	nested, err := t.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("txn/a"), "=", "1"), clientv3.Compare(clientv3.Version("txn/a"), ">", 0)).
		Then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete("txn/a")}, nil)).Commit()
	if err != nil {
		return err
	}
	_, twice := t.client.Txn(ctx).Then(clientv3.OpPut("txn/b", "1"), clientv3.OpPut("txn/b", "2")).Commit()
	many := make([]clientv3.Op, 129)
	for n := range many {
		many[n] = clientv3.OpGet("txn/a")
	}
	_, tooMany := t.client.Txn(ctx).Then(many...).Commit()
	_, enough := t.client.Txn(ctx).Then(many[1:]...).Commit()
	return all(
		holds("the first creates", first.Succeeded),
		equal("a read after the put", string(first.Responses[1].GetResponseRange().Kvs[0].Value), "1"),
		holds("the second does not", !second.Succeeded),
		equal("the other branch", second.Responses[0].GetResponseRange().Count, 1),
		holds("the nested one is taken", nested.Succeeded),
		equal("deleted by it", nested.Responses[0].GetResponseTxn().Responses[0].GetResponseDeleteRange().Deleted, 1),
		holds("a key twice is ErrDuplicateKey", errors.Is(twice, rpctypes.ErrDuplicateKey)),
		holds("129 operations are ErrTooManyOps", errors.Is(tooMany, rpctypes.ErrTooManyOps)),
		enough,
	)
}

func compaction(ctx context.Context, t *tester) error {
	old, err := t.put(ctx, "compact", "1")
	if err != nil {
		return err
	}
	kept, err := t.put(ctx, "compact", "2")
	if err != nil {
		return err
	}
	if _, err := t.client.Compact(ctx, kept, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	_, compacted := t.client.Get(ctx, "compact", clientv3.WithRev(old))
	_, again := t.client.Compact(ctx, kept)
	readable, err := t.client.Get(ctx, "compact", clientv3.WithRev(kept))
	if err != nil {
		return err
	}
	return all(
		holds("an old revision is ErrCompacted", errors.Is(compacted, rpctypes.ErrCompacted)),
		holds("the second compaction is ErrCompacted", errors.Is(again, rpctypes.ErrCompacted)),
		equal("the compacted revision itself", string(readable.Kvs[0].Value), "2"),
	)
}

func stm(ctx context.Context, t *tester) error {
	if _, err := t.put(ctx, "stm", ""); err != nil {
		return err
	}
	failures := make(chan error)
	const workers, rounds = 4, 5
	for range workers {
		go func() {
			var err error
			for round := 0; round < rounds && err == nil; round++ {
				_, err = concurrency.NewSTM(t.client, func(s concurrency.STM) error {
					s.Put("stm", s.Get("stm")+"x")
					return nil
				}, concurrency.WithAbortContext(ctx))
			}
			failures <- err
		}()
	}
	var failed error
	for range workers {
		failed = errors.Join(failed, <-failures)
	}
	end, err := t.client.Get(ctx, "stm")
	if err != nil {
		return err
	}
	return all(failed, equal("length after all", len(end.Kvs[0].Value), workers*rounds))
}
