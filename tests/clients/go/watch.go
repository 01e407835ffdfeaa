package main

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// take reads until a watch told so many events, in words.
func take(changes clientv3.WatchChan, count int) ([]string, error) {
	var seen []string
	for answer := range changes {
		if err := answer.Err(); err != nil {
			return seen, err
		}
		for _, event := range answer.Events {
			line := fmt.Sprintf("%s %s=%s", event.Type, event.Kv.Key, event.Kv.Value)
			if event.PrevKv != nil {
				line += " was " + string(event.PrevKv.Value)
			}
			seen = append(seen, line)
		}
		if len(seen) >= count {
			return seen, nil
		}
	}
	return seen, fmt.Errorf("the watch ended after %q", seen)
}

func watches(ctx context.Context, t *tester) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := t.put(ctx, "watch/a", "1")
	if err != nil {
		return err
	}
	past := t.client.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithPrevKV())
	deletes := t.client.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithFilterPut())
	if _, err := t.put(ctx, "watch/a", "2"); err != nil {
		return err
	}
	if _, err := t.client.Delete(ctx, "watch/a"); err != nil {
		return err
	}
	all3, err := take(past, 3)
	if err != nil {
		return err
	}
	one, err := take(deletes, 1)
	if err != nil {
		return err
	}
	return all(
		equal("all changes", fmt.Sprint(all3), "[PUT watch/a=1 PUT watch/a=2 was 1 DELETE watch/a= was 2]"),
		equal("deletions", fmt.Sprint(one), "[DELETE watch/a=]"),
	)
}

func compactedWatch(ctx context.Context, t *tester) error {
	old, err := t.put(ctx, "compacted-watch", "1")
	if err != nil {
		return err
	}
	kept, err := t.put(ctx, "compacted-watch", "2")
	if err != nil {
		return err
	}
	if _, err := t.client.Compact(ctx, kept); err != nil {
		return err
	}
	answer := <-t.client.Watch(ctx, "compacted-watch", clientv3.WithRev(old))
	return all(
		holds("it is canceled", answer.Canceled),
		equal("compact revision", answer.CompactRevision, kept),
		holds("it is ErrCompacted", errors.Is(answer.Err(), rpctypes.ErrCompacted)),
	)
}

func progress(ctx context.Context, t *tester) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := t.client.Watch(ctx, "progress", clientv3.WithCreatedNotify())
	if created := <-changes; !created.Created {
		return fmt.Errorf("first answer: %+v", created)
	}
	written, err := t.put(ctx, "progress", "1")
	if err != nil {
		return err
	}
	if _, err := take(changes, 1); err != nil {
		return err
	}
	if err := t.client.RequestProgress(ctx); err != nil {
		return err
	}
	answer := <-changes
	return all(
		holds("it is progress", answer.IsProgressNotify()),
		holds("it is not older than the write", answer.Header.Revision >= written),
	)
}

func requireLeader(ctx context.Context, t *tester) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	changes := t.client.Watch(ctx, "leader", clientv3.WithCreatedNotify())
	if created := <-changes; !created.Created {
		return fmt.Errorf("first answer: %+v", created)
	}
	if _, err := t.put(ctx, "leader", "1"); err != nil {
		return err
	}
	_, err := take(changes, 1)
	return err
}

func watchResume(ctx context.Context, t *tester) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := t.client.Watch(ctx, "resume", clientv3.WithCreatedNotify())
	created := <-changes
	// Who answers is found by asking each: members need not be listed under the addresses that this program was told.
	var serving string
	for _, endpoint := range t.endpoints {
		status, err := t.client.Status(ctx, endpoint)
		if err != nil {
			return err
		}
		if status.Header.MemberId == created.Header.MemberId {
			serving = endpoint
		}
	}
	if _, err := t.put(ctx, "resume", "before"); err != nil {
		return err
	}
	if _, err := take(changes, 1); err != nil {
		return err
	}
	if err := t.ask("kill", serving); err != nil {
		return err
	}
	if err := t.putUntilTaken(ctx, "resume", "after"); err != nil {
		return err
	}
	seen, err := take(changes, 1)
	if err != nil {
		return err
	}
	if err := t.ask("restart", serving); err != nil {
		return err
	}
	return equal("after the kill", seen[0], "PUT resume=after")
}

// putUntilTaken tries again what may have met a node that is gone.
func (t *tester) putUntilTaken(ctx context.Context, key, value string) error {
	for {
		_, err := t.put(ctx, key, value)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}
