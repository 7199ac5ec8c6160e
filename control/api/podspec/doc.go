// Package podspec defaults and validates core/v1 pods and pod templates, with the rules and the error texts of upstream
// Kubernetes. All functions are pure: they do no I/O, keep no state and hold on to nothing that they are given. They are safe
// for concurrent use on different objects.
package podspec
