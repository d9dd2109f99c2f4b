// Load on an echo service by grpc-go: unary calls with deadlines, streams, large messages and cancelled calls at once.
// Prints what was done; ends with 1 when any call but a cancelled one had an error or a wrong answer.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte(nil), data...); return nil }
func (raw) Name() string                       { return "raw" }

var unary, streamed, large, cancelled, failed atomic.Int64

func fail(what string, err error) {
	if failed.Add(1) <= 10 {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	}
}

func main() {
	address := flag.String("address", "127.0.0.1:50001", "")
	seconds := flag.Float64("seconds", 60, "")
	connections := flag.Int("connections", 2, "")
	callers := flag.Int("callers", 16, "")
	flag.Parse()
	until := time.Now().Add(time.Duration(*seconds * float64(time.Second)))
	var all sync.WaitGroup
	for range *connections {
		conn, err := grpc.NewClient(*address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		for n := range *callers {
			all.Add(1)
			go func() {
				defer all.Done()
				for time.Now().Before(until) {
					switch n % 16 {
					case 0:
						stream(conn)
					case 1:
						echo(conn, make([]byte, 1<<20), &large)
					case 2:
						cancel(conn)
					default:
						echo(conn, []byte("hello"), &unary)
					}
				}
			}()
		}
	}
	all.Wait()
	fmt.Printf("%d unary, %d streamed messages, %d large, %d cancelled, %d failed\n",
		unary.Load(), streamed.Load(), large.Load(), cancelled.Load(), failed.Load())
	if failed.Load() > 0 {
		os.Exit(1)
	}
}

func echo(conn *grpc.ClientConn, request []byte, count *atomic.Int64) {
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	var reply []byte
	if err := conn.Invoke(ctx, "/load.Load/Echo", &request, &reply); err != nil {
		fail("unary", err)
	} else if !bytes.Equal(request, reply) {
		fail("unary", fmt.Errorf("%d bytes became %d", len(request), len(reply)))
	}
	count.Add(1)
}

func stream(conn *grpc.ClientConn) {
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	chat, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/load.Load/Chat")
	if err != nil {
		fail("stream", err)
		return
	}
	for size := 1; size < 100_000; size *= 3 {
		message, reply := make([]byte, size), []byte(nil)
		if err := chat.SendMsg(&message); err != nil {
			fail("send", err)
			return
		}
		if err := chat.RecvMsg(&reply); err != nil || len(reply) != size {
			fail("receive", err)
			return
		}
		streamed.Add(1)
	}
	if err := chat.CloseSend(); err != nil {
		fail("close", err)
	}
	var reply []byte
	if err := chat.RecvMsg(&reply); err == nil || err.Error() != "EOF" {
		fail("end", err)
	}
}

func cancel(conn *grpc.ClientConn) {
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Millisecond)
	defer stop()
	request, reply := []byte("x"), []byte(nil)
	err := conn.Invoke(ctx, "/load.Load/Hang", &request, &reply)
	if status.Code(err) != codes.DeadlineExceeded {
		fail("cancelled", err)
	}
	cancelled.Add(1)
}
