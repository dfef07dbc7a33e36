%% Asks the console of the program, over its Unix socket.
-module(lwm2m_gateway_http).

-export([request/5, segment/1]).

-define(PROFILE, lwm2m_gateway).

-type answer() :: {ok, Status :: pos_integer(), Headers :: [{string(), string()}], Body :: binary()} | {error, binary()}.

%% Sends a request, with the token of a role or, for `socket`, with the rights of who may open the socket. `Path` has
%% its query; a body is JSON.
-spec request(atom(), iodata(), socket | viewer | operator, iodata(), timeout()) -> answer().
request(Method, Path, Role, Body, Timeout) ->
    ok = start(),
    Url = unicode:characters_to_list(["http://localhost", Path]),
    Headers = authorization(Role),
    Request =
        case Body of
            <<>> -> {Url, Headers};
            _ -> {Url, Headers, "application/json", iolist_to_binary(Body)}
        end,
    %% httpc looks for certificates of the system even for plain HTTP, and fails where there are none.
    HttpOptions = [{timeout, Timeout}, {autoredirect, false}, {ssl, [{verify, verify_none}]}],
    case httpc:request(Method, Request, HttpOptions, [{body_format, binary}], ?PROFILE) of
        {ok, {{_, Status, _}, AnswerHeaders, AnswerBody}} -> {ok, Status, AnswerHeaders, AnswerBody};
        {error, Reason} -> {error, unicode:characters_to_binary(io_lib:format("the gateway does not answer: ~0p", [Reason]))}
    end.

%% Returns a segment of a path in percent-encoding.
-spec segment(unicode:chardata()) -> binary().
segment(Text) ->
    iolist_to_binary([encode(Byte) || <<Byte>> <= unicode:characters_to_binary(Text)]).

encode(Byte) when Byte >= $a, Byte =< $z; Byte >= $A, Byte =< $Z; Byte >= $0, Byte =< $9 -> Byte;
encode(Byte) when Byte =:= $-; Byte =:= $.; Byte =:= $_; Byte =:= $~ -> Byte;
encode(Byte) -> io_lib:format("%~2.16.0B", [Byte]).

authorization(socket) -> [];
authorization(Role) -> [{"authorization", "Bearer " ++ binary_to_list(lwm2m_gateway_program:token(Role))}].

%% The profile is ours alone: its socket option would lead other requests of the node here.
start() ->
    case inets:start(httpc, [{profile, ?PROFILE}]) of
        {ok, _} -> ok;
        {error, {already_started, _}} -> ok
    end,
    httpc:set_options([{ipfamily, local}, {unix_socket, lwm2m_gateway_program:socket()}], ?PROFILE).
