// Command resolver does with Go's own resolver what c/resolve.c does with a C library's, and prints the same lines.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	args := os.Args[1:]
	switch {
	case len(args) >= 2 && args[0] == "names":
		for _, name := range args[1:] {
			for _, kind := range []string{"ip", "ip4", "ip6"} {
				print(kind, name, addresses(kind, name))
			}
		}
	case len(args) == 2 && args[0] == "srv":
		print("srv", args[1], services(args[1]))
	case len(args) == 2 && args[0] == "ptr":
		found, err := net.DefaultResolver.LookupAddr(context.Background(), args[1])
		print("ptr", args[1], result(found, err))
	case len(args) == 3 && args[0] == "pairs":
		pairs(args[1], args[2])
	default:
		os.Exit(2)
	}
}

func print(kind, name, result string) { fmt.Println(kind, name, result) }

// result is the sorted list, none, or the error.
func result(found []string, err error) string {
	var none *net.DNSError
	switch {
	case errors.As(err, &none) && none.IsNotFound:
		return "none"
	case err != nil:
		return "error:" + strings.ReplaceAll(err.Error(), " ", "_")
	}
	for i := range found {
		found[i] = strings.TrimSuffix(found[i], ".")
	}
	slices.Sort(found)
	return strings.Join(found, ",")
}

func addresses(kind, name string) string {
	found, err := net.DefaultResolver.LookupNetIP(context.Background(), kind, name)
	var texts []string
	for _, a := range found {
		texts = append(texts, a.Unmap().String())
	}
	return result(texts, err)
}

func services(name string) string {
	_, found, err := net.DefaultResolver.LookupSRV(context.Background(), "", "", name)
	var texts []string
	for _, s := range found {
		texts = append(texts, strings.TrimSuffix(s.Target, ".")+":"+strconv.Itoa(int(s.Port)))
	}
	return result(texts, err)
}

func pairs(times, name string) {
	n, _ := strconv.Atoi(times)
	var failed, slow int
	var longest time.Duration
	for range n {
		began := time.Now()
		if _, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", name); err != nil {
			failed++
		}
		took := time.Since(began)
		if longest = max(longest, took); took > time.Second {
			slow++
		}
	}
	fmt.Println("pairs", n, failed, slow, longest.Microseconds())
}
