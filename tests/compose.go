// Reads compose files by the library of Docker Compose (merged, variables put in, held against the schema, every name looked
// up) and prints what they come to, in JSON.
package main

import (
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/cli"
)

func read(files []string) ([]byte, error) {
	options, err := cli.NewProjectOptions(files, cli.WithOsEnv, cli.WithDotEnv)
	if err != nil {
		return nil, err
	}
	project, err := cli.ProjectFromOptions(options)
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}

func main() {
	text, err := read(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}
