// Calls an API behind Ostiary with a request signed by the scheme `hmac`. Needs Go 1.16 or later, and no module.
//
//	OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... go run sign.go GET http://127.0.0.1:8080/v1/clients
//	OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... go run sign.go POST http://127.0.0.1:8080/v1/clients '{"name": "Ada"}'
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// sign adds the headers that sign a request, whose URL and body must not change afterwards.
func sign(request *http.Request, body []byte, keyID, secret string) error {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	timestamp, nonce := strconv.FormatInt(time.Now().Unix(), 10), hex.EncodeToString(random)
	digest := sha256.Sum256(body)
	// RequestURI is path and ?query as net/http sends them.
	parts := []string{request.Method, request.URL.RequestURI(), timestamp, nonce, hex.EncodeToString(digest[:])}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(strings.Join(parts, "\n")))
	request.Header.Set("X-API-Key", keyID+":"+hex.EncodeToString(mac.Sum(nil)))
	request.Header.Set("X-Timestamp", timestamp)
	request.Header.Set("X-Nonce", nonce)
	return nil
}

func main() {
	method, url, body := os.Args[1], os.Args[2], []byte(strings.Join(os.Args[3:], ""))
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	if len(body) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	if err := sign(request, body, os.Getenv("OSTIARY_KEY_ID"), os.Getenv("OSTIARY_SECRET")); err != nil {
		log.Fatal(err)
	}
	// A signature is for one target: no redirect is followed.
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.StatusCode, string(text))
	if answer.StatusCode >= 300 {
		os.Exit(1)
	}
}
