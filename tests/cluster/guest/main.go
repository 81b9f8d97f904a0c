// The cluster's own image: the pod sandbox (no argument), and a small web backend.
//
//	guest             waits for a signal, and reaps orphans: what a sandbox does
//	guest web [PORT]  answers HTTP on TCP and any datagram on UDP, IPv4 and IPv6, with a page that says who answers
//
// The page is one "key=value" per line: pod, node (from $NODE_NAME), client (the peer's address as it arrived),
// path. Signals end it at once.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "web" {
		port := "8080"
		if len(os.Args) > 2 {
			port = os.Args[2]
		}
		go udp(port)
		go tcp(port)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			os.Exit(0)
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func page(client net.Addr, path string) string {
	host, _ := os.Hostname()
	address, _, _ := net.SplitHostPort(client.String())
	return fmt.Sprintf("pod=%s\nnode=%s\nclient=%s\npath=%s\n", host, os.Getenv("NODE_NAME"), address, path)
}

func udp(port string) {
	conn, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		log.Fatal(err)
	}
	in := make([]byte, 2048)
	for {
		if _, from, err := conn.ReadFrom(in); err == nil {
			conn.WriteTo([]byte(page(from, "")), from)
		}
	}
}

func tcp(port string) {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			continue
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	in := bufio.NewReaderSize(conn, 8192)
	path := "/"
	for first := true; ; first = false {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if fields := strings.Fields(line); first && len(fields) > 1 {
			path = fields[1]
		} else if len(fields) == 0 {
			break
		}
	}
	body := page(conn.RemoteAddr(), path)
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
}
