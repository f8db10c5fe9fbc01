{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "harp.fullname" -}}
{{- if contains "harp" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-harp" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels of an object: (list $ "component"). */}}
{{- define "harp.labels" -}}
{{- $root := index . 0 }}
{{- include "harp.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "harp.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: harp
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels and annotations of a pod: (list $ "component"). */}}
{{- define "harp.podMeta" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "harp.labels" . | nindent 2 }}
  {{- with $root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with $root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A reference of an image: (list $ "name"). With a tag or digest of its own it stays. */}}
{{- define "harp.image" -}}
{{- $image := (index . 0).Values.image }}
{{- $name := index . 1 }}
{{- if or (contains "@" $name) (contains ":" (base $name)) }}{{ $name }}
{{- else }}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $name }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "harp.extender.on" -}}
{{- $on := .Values.extender.enabled }}
{{- if or (eq (toString $on) "true") (and (eq (toString $on) "auto") (gt (int .Values.gpusPerNode) 1)) }}yes{{ end }}
{{- end }}

{{- define "harp.admission.on" -}}
{{- $on := toString .Values.admissionPolicy.enabled }}
{{- $has := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" }}
{{- if or (eq $on "true") (and (eq $on "auto") $has) }}yes{{ end }}
{{- end }}

{{/* Which configuration kube-scheduler of this cluster reads. */}}
{{- define "harp.scheduler.api" -}}
{{- $version := .Capabilities.KubeVersion.Version }}
{{- if semverCompare ">=1.25.0-0" $version }}kubescheduler.config.k8s.io/v1
{{- else if semverCompare ">=1.23.0-0" $version }}kubescheduler.config.k8s.io/v1beta3
{{- else }}kubescheduler.config.k8s.io/v1beta1
{{- end }}
{{- end }}

{{- define "harp.scheduler.image" -}}
{{- $version := .Capabilities.KubeVersion }}
{{- .Values.image.scheduler | default (printf "registry.k8s.io/kube-scheduler:%s" (regexFind "^v?[0-9]+\\.[0-9]+\\.[0-9]+" $version.Version)) }}
{{- end }}

{{/* Nobody gets more than these; what a container needs beyond is added where it is. */}}
{{- define "harp.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The service account's token, for the one container that asks the API server. */}}
{{- define "harp.account.volume" -}}
- name: account
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}

{{- define "harp.account.mount" -}}
- {name: account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{/* Where the API server is, said over what kubelet says. */}}
{{- define "harp.apiServer.env" -}}
{{- with .Values.apiServer.host }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ . | quote }}}
{{- end }}
{{- with .Values.apiServer.port }}
- {name: KUBERNETES_SERVICE_PORT, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* What all programs of a node must agree on. */}}
{{- define "harp.node.env" -}}
- {name: HARP_RUN, value: {{ .Values.hostPaths.run | quote }}}
- {name: HARP_LOCK_DIR, value: {{ printf "%s/lock" .Values.hostPaths.run | quote }}}
{{- if .Values.softwareGpu.enabled }}
{{- /* Not "soft": there `harp remote serve` keeps copies of the software GPU's libraries. */}}
- {name: HARP_SOFT_DIR, value: {{ printf "%s/softgpu" .Values.hostPaths.run | quote }}}
- {name: HARP_PTXC_SOCKET, value: {{ printf "%s/ptxc/sock" .Values.hostPaths.run | quote }}}
{{- with .Values.softwareGpu.devices }}
- {name: HARP_SOFT_DEVICES, value: {{ . | quote }}}
{{- end }}
{{- else }}
- {name: NVIDIA_VISIBLE_DEVICES, value: all}
- {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility"}
{{- with .Values.nvidia.driverDir }}
- {name: HARP_CUDA_REAL, value: {{ printf "%s/libcuda.so.1" . | quote }}}
- {name: HARP_NVML_REAL, value: {{ printf "%s/libnvidia-ml.so.1" . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "harp.driver.mount" -}}
{{- if and .Values.nvidia.driverDir (not .Values.softwareGpu.enabled) }}
- {name: driver, mountPath: {{ .Values.nvidia.driverDir | quote }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "harp.driver.volume" -}}
{{- if and .Values.nvidia.driverDir (not .Values.softwareGpu.enabled) }}
- {name: driver, hostPath: {path: {{ .Values.nvidia.driverDir | quote }}, type: Directory}}
{{- end }}
{{- end }}

{{/* Probes of a port: (list "port" "/path that says whether a restart would help"). */}}
{{- define "harp.probes" -}}
{{- $port := index . 0 }}
{{- $alive := index . 1 -}}
startupProbe:
  httpGet: {path: {{ $alive }}, port: {{ $port }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: {{ $alive }}, port: {{ $port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /healthz, port: {{ $port }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* The extender, as kube-scheduler's configuration names it. */}}
{{- define "harp.extender.entry" -}}
urlPrefix: {{ . }}
filterVerb: filter
prioritizeVerb: prioritize
bindVerb: bind
weight: 10
# It answers at once, but for a binding that waits until another pod has begun.
httpTimeout: 15s
nodeCacheCapable: true
# Pods with shares wait while the extender is away; others are never held up.
ignorable: false
managedResources:
  - {name: harp.dev/gpu-share, ignoredByScheduler: false}
{{- end }}

{{/* Who reads metrics: (list policy port...); nothing where nobody may. */}}
{{- define "harp.policy.metrics" -}}
{{- $from := (index . 0).metricsFrom }}
{{- if $from -}}
- from: {{- toYaml $from | nindent 4 }}
  ports:
    {{- range rest . }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end }}

{{/* Way out to the API server, and to names. */}}
{{- define "harp.policy.api" -}}
- to:
    {{- range .Values.networkPolicy.apiServer.cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- $own := compact (list .Values.apiServer.port) }}
    {{- range concat .Values.networkPolicy.apiServer.ports $own | uniq }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{- /* "training=enforce,dev=recommend": namespaces with a mode of their own, by name. */}}
{{- define "harp.estimator.modes" -}}
{{- $found := list }}
{{- range $name, $mode := .Values.estimator.namespaces }}
{{- $found = append $found (printf "%s=%s" $name $mode) }}
{{- end }}
{{- join "," $found }}
{{- end }}
