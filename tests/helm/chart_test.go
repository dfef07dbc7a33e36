// The chart, rendered with each file of values in its folder ci/: every object is one that Kubernetes knows, they fit
// together, and the program takes the configuration that they give to it.
package helm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
)

const chart = "../../deploy/helm/lwm2m-gateway"

func TestTheChartIsSound(t *testing.T) {
	files, err := filepath.Glob(chart + "/ci/*-values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no values to render the chart with: %v", err)
	}
	for _, values := range files {
		t.Run(filepath.Base(values), func(t *testing.T) {
			helm(t, "lint", chart, "--strict", "--values", values)
			objects := decode(t, helm(t, "template", "release", chart, "--namespace", "iot", "--values", values))
			checkReferences(t, objects, read(t, values))
			checkPorts(t, objects)
			checkSelectors(t, objects)
			checkConfiguration(t, objects)
		})
	}
}

// The least values of a cluster.
var cluster = []string{"mode=attach", "kind=mqtt", "attach.brokers={emqx:1883}", "cluster.enabled=true", "cluster.certificate.existingSecret=a",
	"store.kind=redis", "store.redis.urls={redis://valkey:6379}", "store.redis.existingSecret=b"}

func TestWhatCannotBeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set  []string
		says string
	}{
		"two gateways for one handler":        {[]string{"mode=attach", "replicas=2"}, "EMQX calls one handler"},
		"no broker":                           {[]string{"mode=attach", "kind=mqtt"}, "attach.brokers"},
		"DTLS without credentials":            {[]string{"dtls.enabled=true"}, "it needs credentials"},
		"a Redis store without an address":    {[]string{"store.kind=redis", "store.redis.existingSecret=a"}, "store.redis: with store.kind=redis it needs urls or sentinels"},
		"a Redis store without a Secret":      {[]string{"store.kind=redis", "store.redis.urls={redis://valkey:6379}"}, "store.redis.existingSecret"},
		"a Redis store by http":               {[]string{"store.kind=redis", "store.redis.urls={http://valkey:6379}"}, "urls"},
		"a cluster of ExProto":                {append(cluster, "kind=exproto"), "cluster: it needs kind=mqtt"},
		"a cluster without a common store":    {append(cluster, "store.kind=file"), "cluster: it needs store.kind=redis"},
		"a cluster without certificates":      {append(cluster, "cluster.certificate.existingSecret="), "cluster.certificate.existingSecret"},
		"a cluster whose EMQX ends first":     {append(cluster, "mode=sidecar"), "emqx.staySeconds: 12 is less than shutdown_timeout, which is 55 s"},
		"an EMQX that ends first":             {[]string{"config.shutdown_timeout=1m 30s", "emqx.staySeconds=89"}, "which is 90 s"},
		"pods that come and go by themselves": {[]string{"autoscaling.enabled=true"}, "autoscaling: it needs cluster.enabled"},
		"a value that there is not":           {[]string{"replica=2"}, "replica"},
		"a mode that there is not":            {[]string{"mode=beside"}, "mode"},
		"a mount of neither":                  {[]string{"mounts[0].name=a", "mounts[0].path=/a"}, "mounts"},
		"an adapter that is no http address":  {[]string{"attach.nodes[0].adapter=emqx:9100", "attach.nodes[0].listener=emqx:7993"}, "adapter"},
	} {
		t.Run(name, func(t *testing.T) {
			arguments := []string{"template", "release", chart}
			for _, set := range c.set {
				arguments = append(arguments, "--set", set)
			}
			output, err := command("go", append([]string{"tool", "helm"}, append(arguments, kubeVersion...)...)...).CombinedOutput()
			if err == nil || !strings.Contains(string(output), c.says) {
				t.Errorf("it should say %q: %v\n%s", c.says, err, output)
			}
		})
	}
}

// The EMQX of a pod ends after its gateway has published what is queued.
func TestAnEMQXThatEndsAfterItsGateway(t *testing.T) {
	for name, set := range map[string][]string{
		"a cluster":         append(cluster, "mode=sidecar", "emqx.staySeconds=55"),
		"seconds":           {"config.shutdown_timeout=12"},
		"several units":     {"config.shutdown_timeout=1m 29s 400ms", "emqx.staySeconds=90"},
		"an EMQX elsewhere": append(cluster, "config.shutdown_timeout=2h"),
	} {
		t.Run(name, func(t *testing.T) {
			arguments := []string{"template", "release", chart}
			for _, set := range set {
				arguments = append(arguments, "--set", set)
			}
			helm(t, arguments...)
		})
	}
}

// A pod with its registrations at a Redis server has no volume, and a prefix of its own.
func TestAStoreAtARedisServer(t *testing.T) {
	values := chart + "/ci/redis-values.yaml"
	objects := decode(t, helm(t, "template", "release", chart, "--namespace", "iot", "--values", values))
	if claims := objects.set.Spec.VolumeClaimTemplates; len(claims) != 0 {
		t.Errorf("there are volumes: %v", claims)
	}
	variables := objects.set.Spec.Template.Spec.Containers[0].Env
	if len(variables) != 1 || variables[0].Name != "LWM2M_GATEWAY__STORE__REDIS__PREFIX" ||
		variables[0].ValueFrom.FieldRef.FieldPath != "metadata.name" {
		t.Errorf("the prefix is not the name of the pod: %v", variables)
	}
	configuration := objects.configMaps[objects.set.Name].Data["gateway.toml"]
	for _, line := range []string{`kind = "redis"`, `seal_keyfile = "/etc/lwm2m-gateway/store/seal"`, `passwordfile = "/etc/lwm2m-gateway/store/password"`} {
		if !strings.Contains(configuration, line) {
			t.Errorf("%s is not in\n%s", line, configuration)
		}
	}
}

// The pods of a cluster share a store, know each other by certificates, and are found and scaled as the nodes of one gateway.
func TestTheNodesOfACluster(t *testing.T) {
	values := chart + "/ci/gateway-cluster-values.yaml"
	objects := decode(t, helm(t, "template", "release", chart, "--namespace", "iot", "--values", values))
	spec := objects.set.Spec
	pod := spec.Template.Spec
	if len(spec.VolumeClaimTemplates) != 0 || spec.Replicas != nil || spec.MinReadySeconds != 10 || spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntVal != 1 {
		t.Errorf("a StatefulSet with volumes or replicas of its own, or not one pod at a time: %+v", spec)
	}
	// 200,000 devices, 5,000 connections per second.
	if grace := *pod.TerminationGracePeriodSeconds; grace != 100 {
		t.Errorf("the pod has %d s to hand its devices over", grace)
	}
	if affinity := pod.Affinity; affinity == nil || affinity.PodAntiAffinity == nil {
		t.Errorf("the pods may share a machine: %v", affinity)
	}
	variables := environment(objects)
	for _, expected := range []string{
		"LWM2M_GATEWAY__CLUSTER__NODE=release-lwm2m-gateway-0",
		"LWM2M_GATEWAY__CLUSTER__ADVERTISE=release-lwm2m-gateway-0.release-lwm2m-gateway-headless.iot.svc:5690",
	} {
		if !slices.Contains(variables, expected) {
			t.Errorf("%s is not in %v", expected, variables)
		}
	}
	configuration := objects.configMaps[objects.set.Name].Data["gateway.toml"]
	for _, line := range []string{`prefix = "release-lwm2m-gateway"`, `certfile = "/etc/lwm2m-gateway/cluster/tls.crt"`, `shutdown_timeout = "75s"`} {
		if !strings.Contains(configuration, line) {
			t.Errorf("%s is not in\n%s", line, configuration)
		}
	}
	for _, service := range objects.services {
		if service.Name == objects.set.Name && (service.Spec.SessionAffinity != core.ServiceAffinityNone ||
			service.Spec.PublishNotReadyAddresses || service.Spec.ExternalTrafficPolicy != core.ServiceExternalTrafficPolicyLocal) {
			t.Errorf("devices: %+v", service.Spec)
		}
	}
	peers := func(rule networking.NetworkPolicyIngressRule) bool { return rule.Ports[0].Port.StrVal == "peers" }
	at := slices.IndexFunc(objects.policies[0].Spec.Ingress, peers)
	if at < 0 || len(objects.policies[0].Spec.Ingress[at].From) != 1 || objects.policies[0].Spec.Ingress[at].From[0].PodSelector == nil {
		t.Errorf("not only the pods reach the port of the nodes: %+v", objects.policies[0].Spec.Ingress)
	}
	if scaler := objects.scalers[0].Spec; scaler.MaxReplicas != 8 || *scaler.MinReplicas != 3 || scaler.Behavior.ScaleDown.Policies[0].PeriodSeconds != 600 {
		t.Errorf("scales: %+v", scaler)
	}
	if budget := objects.budgets[0].Spec.MaxUnavailable; budget.IntVal != 1 {
		t.Errorf("%v pods may be away at once", budget)
	}
}

// Helm from a module does not know for which version it was made.
var kubeVersion = []string{"--kube-version", "1.30.0"}

func helm(t *testing.T, arguments ...string) []byte {
	t.Helper()
	return run(t, command("go", append([]string{"tool", "helm"}, append(arguments, kubeVersion...)...)...))
}

// program runs lwm2m-gateway as it was built, or as LWM2M_GATEWAY names it.
func program(t *testing.T, folder string, environment []string, arguments ...string) []byte {
	t.Helper()
	binary := os.Getenv("LWM2M_GATEWAY")
	if binary == "" {
		binary = "../../target/debug/lwm2m-gateway"
	}
	started := command(binary, arguments...)
	started.Env = append(append(os.Environ(), environment...), "LWM2M_GATEWAY__XML_DIR="+folder)
	return run(t, started)
}

func command(name string, arguments ...string) *exec.Cmd {
	return exec.Command(name, arguments...)
}

// run gives what a command prints to its standard output.
func run(t *testing.T, started *exec.Cmd) []byte {
	t.Helper()
	var complaint bytes.Buffer
	started.Stderr = &complaint
	output, err := started.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", started, err, output, complaint.String())
	}
	return output
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
