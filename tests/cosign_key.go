// Makes a pair of keys as `cosign generate-key-pair` does, by the library that it uses for it: cosign.key, encrypted with
// COSIGN_PASSWORD, and cosign.pub, in the folder where it is called.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	sealed, err := encrypted.Encrypt(private, []byte(os.Getenv("COSIGN_PASSWORD")))
	check(err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	check(err)
	write := func(name, kind string, bytes []byte) {
		check(os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600))
	}
	write("cosign.key", "ENCRYPTED SIGSTORE PRIVATE KEY", sealed)
	write("cosign.pub", "PUBLIC KEY", public)
}
