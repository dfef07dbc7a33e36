package helm

import (
	"bytes"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// What was rendered.
type objects struct {
	set        apps.StatefulSet
	services   []core.Service
	configMaps map[string]core.ConfigMap
	secrets    map[string]core.Secret
	budgets    []policy.PodDisruptionBudget
	policies   []networking.NetworkPolicy
	monitors   []monitoring.ServiceMonitor
	scalers    []autoscaling.HorizontalPodAutoscaler
}

// decode takes each object as the type that its kind has in the API. A field that the type does not have is an error, and so
// is a kind that the chart has no business with.
func decode(t *testing.T, rendered []byte) objects {
	t.Helper()
	all := objects{configMaps: map[string]core.ConfigMap{}, secrets: map[string]core.Secret{}}
	sets := 0
	for _, document := range bytes.Split(rendered, []byte("\n---\n")) {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		switch kind.APIVersion + " " + kind.Kind {
		case " ":
			// Comments alone.
		case "apps/v1 StatefulSet":
			all.set = strictly[apps.StatefulSet](t, document)
			sets++
		case "v1 Service":
			all.services = append(all.services, strictly[core.Service](t, document))
		case "v1 ConfigMap":
			configMap := strictly[core.ConfigMap](t, document)
			all.configMaps[configMap.Name] = configMap
		case "v1 Secret":
			secret := strictly[core.Secret](t, document)
			all.secrets[secret.Name] = secret
		case "policy/v1 PodDisruptionBudget":
			all.budgets = append(all.budgets, strictly[policy.PodDisruptionBudget](t, document))
		case "autoscaling/v2 HorizontalPodAutoscaler":
			all.scalers = append(all.scalers, strictly[autoscaling.HorizontalPodAutoscaler](t, document))
		case "networking.k8s.io/v1 NetworkPolicy":
			all.policies = append(all.policies, strictly[networking.NetworkPolicy](t, document))
		case "monitoring.coreos.com/v1 ServiceMonitor":
			all.monitors = append(all.monitors, strictly[monitoring.ServiceMonitor](t, document))
		default:
			t.Errorf("the chart should not have a %s of %s", kind.Kind, kind.APIVersion)
		}
	}
	if sets != 1 {
		t.Fatalf("one StatefulSet is expected, and there are %d", sets)
	}
	return all
}

func strictly[T any](t *testing.T, document []byte) T {
	t.Helper()
	var object T
	if err := yaml.UnmarshalStrict(document, &object); err != nil {
		t.Fatalf("%T: %v\n%s", object, err, document)
	}
	return object
}
