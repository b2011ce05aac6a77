// An open-loop load generator: it sends each request when it is due, however late the answers are. With -clients it is
// a closed loop, which finds the best rate of a machine.
//
// It is compiled because the generator shares the machine with what it measures: in Python it was late itself.
// It prints one JSON object. Each request has exactly one end, and the lag says how late the generator was.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const waitSeconds = 30

var (
	address  = flag.String("address", "127.0.0.1:8080", "host and port of the orders API or of the gateway")
	rate     = flag.Float64("rate", 100, "orders a second")
	seconds  = flag.Float64("seconds", 10, "for how long")
	clients  = flag.Int("clients", 0, "instead: so many clients place -orders, each the next one after its last")
	orders   = flag.Int("orders", 1000, "with -clients: how many orders")
	follow   = flag.Bool("follow", false, "wait for the end of each order with ?wait=")
	header   = flag.String("header", "", "one more line of each request, such as Authorization: Bearer ...")
	patience = flag.Duration("patience", 20*time.Second, "an answer that comes later than this counts as timed out")
)

// connection is one connection with keep-alive. It carries one request at a time.
type connection struct {
	net.Conn
	reader *bufio.Reader
}

// result has everything that one order gave. Times are in seconds, from the moment when the POST was due.
type result struct {
	ends     []string
	lag      float64
	answered float64
	overdue  float64 // by which the answer to ?wait= came too late
	finished float64 // 0: the order was not accepted, or with -follow, it did not become CONFIRMED
}

type generator struct {
	mutex sync.Mutex
	free  []*connection
	open  int
	most  int
}

func main() {
	flag.Parse()
	number := int(*rate * *seconds)
	if *clients > 0 {
		number = *orders
	}
	results := make([]result, number)
	made := &generator{}
	started := time.Now()
	if *clients > 0 {
		made.closed(results)
	} else {
		made.onSchedule(results, started)
	}
	took := time.Since(started)
	summary := summarize(results)
	summary["seconds"] = took.Seconds()
	summary["connections"] = made.most
	if err := json.NewEncoder(os.Stdout).Encode(summary); err != nil {
		panic(err)
	}
}

// onSchedule places each order when it is due.
func (g *generator) onSchedule(results []result, started time.Time) {
	var all sync.WaitGroup
	for i := range results {
		due := started.Add(time.Duration(float64(i) / *rate * float64(time.Second)))
		time.Sleep(time.Until(due))
		all.Go(func() { results[i] = g.order(i, due) })
	}
	all.Wait()
}

// closed lets clients place the orders as fast as they are answered.
func (g *generator) closed(results []result) {
	var all sync.WaitGroup
	var next atomic.Int64
	for range *clients {
		all.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(results); i = next.Add(1) - 1 {
				results[i] = g.order(int(i), time.Now())
			}
		})
	}
	all.Wait()
}

// order places an order, and waits for its end if that is wanted.
func (g *generator) order(number int, due time.Time) result {
	var got result
	got.lag = time.Since(due).Seconds()
	body := `{"sku":"burger","quantity":1}` // of the user of the token
	if *header == "" {
		body = fmt.Sprintf(`{"userId":"u%d","sku":"burger","quantity":1}`, number%1000)
	}
	status, answer, end := g.ask("POST", "/v1/orders", body, *patience)
	got.ends = append(got.ends, "POST "+end)
	got.answered = time.Since(due).Seconds()
	if status != http.StatusAccepted {
		return got
	}
	if *follow && !g.confirmed(answer, &got) {
		return got
	}
	got.finished = time.Since(due).Seconds()
	return got
}

func (g *generator) confirmed(answer []byte, got *result) bool {
	var order struct {
		ID     int64
		Status string
	}
	if json.Unmarshal(answer, &order) != nil {
		panic("an answer is no JSON: " + string(answer))
	}
	asked := time.Now()
	path := fmt.Sprintf("/v1/orders/%d?wait=%d", order.ID, waitSeconds)
	status, answer, end := g.ask("GET", path, "", *patience+waitSeconds*time.Second)
	took := time.Since(asked).Seconds()
	got.overdue = max(0, took-waitSeconds)
	if status >= 300 || status == 0 {
		got.overdue = took // a refusal has nothing to wait for
	}
	if status == http.StatusOK && json.Unmarshal(answer, &order) == nil {
		end += " " + order.Status
	}
	got.ends = append(got.ends, "GET "+end)
	return status == http.StatusOK && order.Status == "CONFIRMED"
}

// ask sends one request. It returns the status, the body, and how the request ended, in a word.
func (g *generator) ask(method, path, body string, limit time.Duration) (int, []byte, string) {
	until := time.Now().Add(limit)
	used, err := g.take(until)
	if err != nil {
		return 0, nil, failure(err)
	}
	status, answer, last, err := used.exchange(method, path, body, until)
	if err != nil || last {
		g.drop(used)
	} else {
		g.put(used)
	}
	if err != nil {
		return 0, nil, failure(err)
	}
	if status == http.StatusServiceUnavailable && bytes.Contains(answer, []byte("/problems/refused")) {
		return status, answer, "refused"
	}
	return status, answer, fmt.Sprint(status)
}

func failure(err error) string {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return "not sent" // this process has no file or port left
	}
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return "timed out"
	}
	return "reset"
}

func (c *connection) exchange(method, path, body string, until time.Time) (int, []byte, bool, error) {
	if err := c.SetDeadline(until); err != nil {
		return 0, nil, true, err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path)
	if *header != "" {
		text.WriteString(*header + "\r\n")
	}
	if body != "" {
		fmt.Fprintf(&text, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	text.WriteString("\r\n" + body)
	_, sent := io.WriteString(c.Conn, text.String())
	// A server that refuses a connection answers before it has read the request: then the answer counts.
	answer, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		if sent != nil {
			err = sent
		}
		return 0, nil, true, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, content, answer.Close, err
}

func (g *generator) take(until time.Time) (*connection, error) {
	g.mutex.Lock()
	if last := len(g.free) - 1; last >= 0 {
		used := g.free[last]
		g.free = g.free[:last]
		g.mutex.Unlock()
		return used, nil
	}
	g.open++
	g.most = max(g.most, g.open)
	g.mutex.Unlock()
	made, err := net.DialTimeout("tcp", *address, time.Until(until))
	if err != nil {
		g.mutex.Lock()
		g.open--
		g.mutex.Unlock()
		return nil, err
	}
	return &connection{made, bufio.NewReaderSize(made, 1024)}, nil
}

func (g *generator) put(used *connection) {
	g.mutex.Lock()
	g.free = append(g.free, used)
	g.mutex.Unlock()
}

func (g *generator) drop(used *connection) {
	used.Close()
	g.mutex.Lock()
	g.open--
	g.mutex.Unlock()
}

func summarize(results []result) map[string]any {
	ends := map[string]int{}
	var lag, answered, finished, overdue []float64
	for _, got := range results {
		for _, end := range got.ends {
			ends[end]++
		}
		lag, answered, overdue = append(lag, got.lag), append(answered, got.answered), append(overdue, got.overdue)
		if got.finished > 0 {
			finished = append(finished, got.finished)
		}
	}
	return map[string]any{
		"ends": ends, "lag": spread(lag), "answered": spread(answered), "overdue": spread(overdue),
		"finished": spread(finished),
	}
}

// spread describes a list of seconds by its count and its percentiles.
func spread(values []float64) map[string]any {
	if len(values) == 0 {
		return map[string]any{"count": 0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "worst": 0.0}
	}
	sort.Float64s(values)
	at := func(part float64) float64 { return values[int(part*float64(len(values)-1))] }
	return map[string]any{
		"count": len(values), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "worst": values[len(values)-1],
	}
}
