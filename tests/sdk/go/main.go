// The official Go SDK over every block it has, as its users use it; the environment says where the sidecar is.
// Prints one line for each thing that held; a failed expectation ends the process with an error.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"
	"reflect"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const wait = 20 * time.Second

type check struct {
	name string
	work func(context.Context, client.Client)
}

var checks = []check{
	{"health", health},
	{"state", state},
	{"etags", etags},
	{"transaction", transaction},
	{"publish", publish},
	{"subscribe", subscribe},
	{"secrets", secrets},
	{"invoke", invoke},
	{"configuration", configuration},
	{"lock", lock},
	{"bindings", bindings},
	{"crypto", crypto},
	{"metadata", metadata},
	{"errors", refusals},
}

func main() {
	sidecar, err := client.NewClient()
	good(err)
	defer sidecar.Close()
	for _, check := range checks {
		// A stream of the SDK lives as long as its context: each check ends what it began.
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		check.work(ctx, sidecar)
		cancel()
		fmt.Printf("held: %s\n", check.name)
	}
}

func health(ctx context.Context, sidecar client.Client) {
	good(sidecar.Wait(ctx, wait))
}

func state(ctx context.Context, sidecar client.Client) {
	good(sidecar.SaveState(ctx, "store", "a", []byte("\x00binary"), map[string]string{"ttlInSeconds": "100"}))
	found, err := sidecar.GetState(ctx, "store", "a", nil)
	good(err)
	same([]byte("\x00binary"), found.Value)
	good(sidecar.SaveBulkState(ctx, "store",
		&client.SetStateItem{Key: "b", Value: []byte("1")}, &client.SetStateItem{Key: "c", Value: []byte("2")}))
	items, err := sidecar.GetBulkState(ctx, "store", []string{"b", "c", "none"}, nil, 2)
	good(err)
	values := map[string]string{}
	for _, item := range items {
		values[item.Key] = string(item.Value)
	}
	same(map[string]string{"b": "1", "c": "2", "none": ""}, values)
	good(sidecar.DeleteState(ctx, "store", "a", nil))
	good(sidecar.DeleteBulkState(ctx, "store", []string{"b", "c"}, nil))
	for _, key := range []string{"a", "b", "c"} {
		gone, err := sidecar.GetState(ctx, "store", key, nil)
		good(err)
		same(0, len(gone.Value))
	}
}

func etags(ctx context.Context, sidecar client.Client) {
	good(sidecar.SaveState(ctx, "store", "guarded", []byte("one"), nil))
	found, err := sidecar.GetState(ctx, "store", "guarded", nil)
	good(err)
	first := client.WithConcurrency(client.StateConcurrencyFirstWrite)
	good(sidecar.SaveStateWithETag(ctx, "store", "guarded", []byte("two"), found.Etag, nil, first))
	refused(codes.Aborted, sidecar.SaveStateWithETag(ctx, "store", "guarded", []byte("three"), found.Etag, nil, first))
	refused(codes.Aborted, sidecar.DeleteStateWithETag(ctx, "store", "guarded", &client.ETag{Value: found.Etag}, nil, nil))
	found, err = sidecar.GetState(ctx, "store", "guarded", nil)
	good(err)
	same("two", string(found.Value))
}

func transaction(ctx context.Context, sidecar client.Client) {
	good(sidecar.SaveState(ctx, "store", "old", []byte("x"), nil))
	good(sidecar.ExecuteStateTransaction(ctx, "store", nil, []*client.StateOperation{
		{Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: "new", Value: []byte("y")}},
		{Type: client.StateOperationTypeDelete, Item: &client.SetStateItem{Key: "old"}},
	}))
	found, err := sidecar.GetState(ctx, "store", "new", nil)
	good(err)
	same("y", string(found.Value))
	found, err = sidecar.GetState(ctx, "store", "old", nil)
	good(err)
	same(0, len(found.Value))
}

func publish(ctx context.Context, sidecar client.Client) {
	good(sidecar.PublishEvent(ctx, "pubsub", "orders", map[string]int{"id": 7}))
	good(sidecar.PublishEvent(ctx, "pubsub", "orders", []byte("raw"), client.PublishEventWithRawPayload()))
	answer := sidecar.PublishEvents(ctx, "pubsub", "orders", []interface{}{"one", map[string]int{"id": 8}})
	good(answer.Error)
	same(0, len(answer.FailedEvents))
}

func subscribe(ctx context.Context, sidecar client.Client) {
	subscription, err := sidecar.Subscribe(ctx, client.SubscriptionOptions{PubsubName: "pubsub", Topic: "stream"})
	good(err)
	good(sidecar.PublishEvent(ctx, "pubsub", "stream", []byte(`{"id": 9}`),
		client.PublishEventWithContentType("application/json")))
	message, err := subscription.Receive()
	good(err)
	same("stream", message.Topic)
	same(map[string]interface{}{"id": 9.0}, message.Data)
	good(message.Success())
	good(subscription.Close())
}

func secrets(ctx context.Context, sidecar client.Client) {
	found, err := sidecar.GetSecret(ctx, "vault", "password", nil)
	good(err)
	same(map[string]string{"password": "s3cret"}, found)
	all, err := sidecar.GetBulkSecret(ctx, "vault", nil)
	good(err)
	same(map[string]string{"db:user": "ada"}, all["db:user"])
}

func invoke(ctx context.Context, sidecar client.Client) {
	content := &client.DataContent{ContentType: "application/json", Data: []byte(`{"hello": "world"}`)}
	answer, err := sidecar.InvokeMethodWithContent(ctx, "shop", "orders/7", "post", content)
	good(err)
	same(map[string]interface{}{"path": "/orders/7", "method": "POST", "body": map[string]interface{}{"hello": "world"}},
		object(answer))
	answer, err = sidecar.InvokeMethod(ctx, "shop", "orders?page=2", "get")
	good(err)
	same("/orders?page=2", object(answer)["path"])
}

func configuration(ctx context.Context, sidecar client.Client) {
	configure(ctx, sidecar, "blue", "1")
	item, err := sidecar.GetConfigurationItem(ctx, "settings", "colour")
	good(err)
	same("blue", item.Value)
	heard := make(chan *client.ConfigurationItem, 8)
	id, err := sidecar.SubscribeConfigurationItems(ctx, "settings", []string{"colour"},
		func(_ string, items map[string]*client.ConfigurationItem) { heard <- items["colour"] })
	good(err)
	configure(ctx, sidecar, "green", "2")
	select {
	case item = <-heard:
		same("green", item.Value)
		same("2", item.Version)
	case <-ctx.Done():
		good(ctx.Err())
	}
	good(sidecar.UnsubscribeConfigurationItems(ctx, "settings", id))
	if sidecar.UnsubscribeConfigurationItems(ctx, "settings", id) == nil {
		fail("unsubscribed twice")
	}
}

// configure asks the application behind the sidecar to change the store by hand.
func configure(ctx context.Context, sidecar client.Client, value, version string) {
	item := map[string]string{"key": "colour", "value": value, "version": version}
	_, err := sidecar.InvokeMethodWithCustomContent(ctx, "shop", "configure", "post", "application/json", item)
	good(err)
}

func lock(ctx context.Context, sidecar client.Client) {
	for _, each := range []struct {
		owner string
		got   bool
	}{{"me", true}, {"you", false}} {
		answer, err := sidecar.TryLockAlpha1(ctx, "locks",
			&client.LockRequest{ResourceID: "order 1", LockOwner: each.owner, ExpiryInSeconds: 60})
		good(err)
		same(each.got, answer.Success)
	}
	for _, each := range []struct{ owner, status string }{
		{"you", "LOCK_BELONGS_TO_OTHERS"}, {"me", "SUCCESS"}, {"me", "LOCK_DOES_NOT_EXIST"},
	} {
		answer, err := sidecar.UnlockAlpha1(ctx, "locks", &client.UnlockRequest{ResourceID: "order 1", LockOwner: each.owner})
		good(err)
		same(each.status, answer.Status)
	}
}

func bindings(ctx context.Context, sidecar client.Client) {
	request := &client.InvokeBindingRequest{
		Name: "files", Operation: "create", Data: []byte("written by Go"), Metadata: map[string]string{"fileName": "notes/go.txt"},
	}
	_, err := sidecar.InvokeBinding(ctx, request)
	good(err)
	request.Operation, request.Data = "get", nil
	answer, err := sidecar.InvokeBinding(ctx, request)
	good(err)
	same("written by Go", string(answer.Data))
	request.Operation = "delete"
	good(sidecar.InvokeOutputBinding(ctx, request))
	request.Operation = "get"
	_, err = sidecar.InvokeBinding(ctx, request)
	if err == nil {
		fail("the file is still there")
	}
}

func crypto(ctx context.Context, sidecar client.Client) {
	plain := make([]byte, 200_000)
	rand.New(rand.NewSource(7)).Read(plain)
	sealing := client.EncryptOptions{ComponentName: "keys", KeyName: "mykey", KeyWrapAlgorithm: "A256KW"}
	sealed, err := sidecar.Encrypt(ctx, bytes.NewReader(plain), sealing)
	good(err)
	document, err := io.ReadAll(sealed)
	good(err)
	same(true, bytes.HasPrefix(document, []byte("dapr.io/enc/v1\n")))
	opened, err := sidecar.Decrypt(ctx, bytes.NewReader(document), client.DecryptOptions{ComponentName: "keys"})
	good(err)
	found, err := io.ReadAll(opened)
	good(err)
	same(true, bytes.Equal(plain, found))
}

func metadata(ctx context.Context, sidecar client.Client) {
	good(sidecar.SetMetadata(ctx, "colour", "blue"))
	found, err := sidecar.GetMetadata(ctx)
	good(err)
	same("shop", found.ID)
	same("blue", found.ExtendedMetadata["colour"])
	kinds := map[string]string{}
	for _, each := range found.RegisteredComponents {
		kinds[each.Name] = each.Type
	}
	same("state.sqlite", kinds["store"])
}

func refusals(ctx context.Context, sidecar client.Client) {
	_, err := sidecar.GetState(ctx, "nowhere", "k", nil)
	refused(codes.InvalidArgument, err)
	refused(codes.InvalidArgument, sidecar.SaveState(ctx, "store", "a||b", []byte("x"), nil))
	_, err = sidecar.InvokeMethod(ctx, "nobody", "x", "get")
	if err == nil {
		fail("nobody answered")
	}
}

func object(data []byte) map[string]interface{} {
	found := map[string]interface{}{}
	good(json.Unmarshal(data, &found))
	return found
}

func refused(code codes.Code, err error) {
	if found := status.Code(err); found != code {
		fail(fmt.Sprintf("wanted %s, found %s: %v", code, found, err))
	}
}

func same(wanted, found interface{}) {
	if !reflect.DeepEqual(wanted, found) {
		fail(fmt.Sprintf("wanted %#v, found %#v", wanted, found))
	}
}

func good(err error) {
	if err != nil {
		fail(err.Error())
	}
}

// fail says where, by its stack.
func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	panic(why)
}
