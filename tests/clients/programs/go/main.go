// One client of Go, on its defaults but for the endpoint. Reads calls from standard input and
// writes what came of each, as tests/clients/program.py says.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	awsv1 "github.com/aws/aws-sdk-go/aws"
	sessionv1 "github.com/aws/aws-sdk-go/aws/session"
	kinesisv1 "github.com/aws/aws-sdk-go/service/kinesis"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

type call struct {
	Operation string      `json:"operation"`
	Stream    string      `json:"stream"`
	Records   [][2]string `json:"records"`
}

type told struct {
	Failed []int  `json:"failed"`
	Error  string `json:"error,omitempty"`
}

// A client: puts the records of a call; the positions of those that failed, or why all did.
type put func(call) ([]int, error)

func version1(endpoint string) put {
	client := kinesisv1.New(sessionv1.Must(sessionv1.NewSession()), &awsv1.Config{Endpoint: &endpoint})
	return func(asked call) ([]int, error) {
		if asked.Operation == "PutRecord" {
			record := asked.Records[0]
			_, err := client.PutRecord(&kinesisv1.PutRecordInput{
				StreamName: &asked.Stream, PartitionKey: &record[0], Data: []byte(record[1])})
			return nil, err
		}
		input := &kinesisv1.PutRecordsInput{StreamName: &asked.Stream}
		for at := range asked.Records {
			record := &asked.Records[at]
			input.Records = append(input.Records, &kinesisv1.PutRecordsRequestEntry{
				PartitionKey: &record[0], Data: []byte(record[1])})
		}
		answer, err := client.PutRecords(input)
		if err != nil {
			return nil, err
		}
		failed := []int{}
		for at, result := range answer.Records {
			if result.ErrorCode != nil {
				failed = append(failed, at)
			}
		}
		return failed, nil
	}
}

func version2(endpoint string) put {
	ctx := context.Background()
	settings, err := config.LoadDefaultConfig(ctx, config.WithBaseEndpoint(endpoint))
	if err != nil {
		panic(err)
	}
	client := kinesis.NewFromConfig(settings)
	return func(asked call) ([]int, error) {
		if asked.Operation == "PutRecord" {
			record := asked.Records[0]
			_, err := client.PutRecord(ctx, &kinesis.PutRecordInput{
				StreamName: &asked.Stream, PartitionKey: &record[0], Data: []byte(record[1])})
			return nil, err
		}
		input := &kinesis.PutRecordsInput{StreamName: &asked.Stream}
		for at := range asked.Records {
			record := &asked.Records[at]
			input.Records = append(input.Records, types.PutRecordsRequestEntry{
				PartitionKey: &record[0], Data: []byte(record[1])})
		}
		answer, err := client.PutRecords(ctx, input)
		if err != nil {
			return nil, err
		}
		failed := []int{}
		for at, result := range answer.Records {
			if result.ErrorCode != nil {
				failed = append(failed, at)
			}
		}
		return failed, nil
	}
}

func main() {
	clients := map[string]func(string) put{"go-v1": version1, "go-v2": version2}
	put := clients[os.Args[1]](os.Args[2])
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var asked call
		if in.Decode(&asked) != nil {
			return
		}
		failed, err := put(asked)
		answer := told{Failed: failed}
		if failed == nil {
			answer.Failed = []int{}
		}
		if err != nil {
			answer.Error = fmt.Sprint(err)
		}
		if out.Encode(answer) != nil {
			return
		}
	}
}
