// Telegraf's output for Kinesis, on its defaults but for the endpoint. Reads calls from standard
// input and writes what came of each, as tests/clients/program.py says. What Telegraf does not
// return it logs: whoever runs it reads of a failure there, and so does this.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/plugins/outputs/kinesis"
)

type call struct {
	Stream  string      `json:"stream"`
	Records [][2]string `json:"records"`
}

type told struct {
	Failed []int  `json:"failed"`
	Error  string `json:"error,omitempty"`
}

// What is logged as an error; anything else is dropped. The output calls nothing but these.
type log struct {
	telegraf.Logger
	text string
}

func (l *log) Error(args ...interface{})                 { l.text = fmt.Sprint(args...) }
func (l *log) Errorf(format string, args ...interface{}) { l.text = fmt.Sprintf(format, args...) }
func (l *log) Debugf(string, ...interface{})             {}

// A metric is the text alone, as a serializer of a user's own might have it.
type texts struct{}

func (texts) Serialize(one telegraf.Metric) ([]byte, error) {
	text, _ := one.GetField("text")
	return []byte(text.(string)), nil
}

func (texts) SerializeBatch([]telegraf.Metric) ([]byte, error) {
	return nil, fmt.Errorf("the output for Kinesis serializes metrics one by one")
}

func open(endpoint, stream string, said *log) (*kinesis.KinesisOutput, error) {
	output := &kinesis.KinesisOutput{
		StreamName: stream,
		Partition:  &kinesis.Partition{Method: "tag", Key: "key"},
		Log:        said,
	}
	output.Region = os.Getenv("AWS_REGION")
	output.EndpointURL = endpoint
	output.SetSerializer(texts{})
	return output, output.Connect()
}

func main() {
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	said := &log{}
	var output *kinesis.KinesisOutput
	for {
		var asked call
		if in.Decode(&asked) != nil {
			return
		}
		var err error
		said.text = ""
		if output == nil {
			output, err = open(os.Args[2], asked.Stream, said)
		}
		if err == nil {
			metrics := make([]telegraf.Metric, 0, len(asked.Records))
			for _, record := range asked.Records {
				metrics = append(metrics, metric.New("record",
					map[string]string{"key": record[0]},
					map[string]interface{}{"text": record[1]}, time.Now()))
			}
			err = output.Write(metrics)
		} else {
			output = nil // Telegraf would not start
		}
		answer := told{Failed: []int{}, Error: said.text}
		if err != nil {
			answer.Error = err.Error()
		}
		if out.Encode(answer) != nil {
			return
		}
	}
}
